"""Connections that are held for too long, and units that nobody finishes: told in the log, with the lines."""

import asyncio
import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from apps.b_serving import FORMS, Form, Served, comes_true
from fastapi_database import Database
from fastapi_database.core.leaks import overdue
from fastapi_database.core.queue import Named, Ticket

pytestmark = pytest.mark.load
pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
SETTINGS = {"DATABASE_HOLD_WARNING": "0.3", "DATABASE_QUEUE_TIMEOUT": "0.5"}
SELECT = text("SELECT 1")


@contextmanager
def holding(form: Form) -> Iterator[None]:
    """Have one request hold a connection until the end of the block."""
    name = f"leak {next(NUMBERS)}"
    holder = threading.Thread(target=form.ask, args=(f"/hold/{name}",))
    holder.start()
    assert comes_true(lambda: form.served.watch()["in_use"] == 1, 30.0)
    yield
    form.served.ask(f"/moments/{name}", "POST")
    holder.join()


@pytest.mark.parametrize("names", FORMS, ids="-".join)
def test_a_request_that_holds_a_connection_is_reported_once_with_both_lines(
    served: Callable[..., Served], names: tuple[str, str, str]
) -> None:
    form = Form(served(names[0], **SETTINGS), *names)
    log = form.served.log_from_here()
    with holding(form):
        assert comes_true(lambda: "[held-too-long]" in log(), 30.0)
        first = log()
        assert form.ask("/one").status == 200  # and another one is not suspected
    assert comes_true(lambda: form.served.watch()["in_use"] == 0, 30.0)
    said = [line for line in log().splitlines() if "[held-too-long]" in line]
    assert len(said) == 1
    kind = form.kind
    assert re.search(rf'"GET {form.prefix}/hold/\{{name:path\}}" \(add_{kind}\.<locals>\.hold, b_life\.py:\d+\)', first)
    assert re.search(r"it is in (wait|reached), b_watch\.py:\d+\.", first), first


@pytest.mark.parametrize("names", [FORMS[0], FORMS[2], FORMS[-1]], ids="-".join)
def test_at_exhaustion_the_error_says_where_the_code_of_those_stands_who_hold_what(
    served: Callable[..., Served], names: tuple[str, str, str]
) -> None:
    form = Form(served(names[0], **SETTINGS, DATABASE_MAX_CONNECTIONS="1"), *names)
    log = form.served.log_from_here()
    with holding(form):
        assert form.ask("/one").status == 503
        # The log has one line a second for each kind of refusal, and a test before this may have had the last one.
        assert comes_true(lambda: form.ask("/one").status == 503 and "held by" in log(), 30.0)
    assert re.search(r'held by "GET \S+/hold/\{name:path\}" \(\S+hold, b_life\.py:\d+\) for \d+\.\d\d s', log()), log()


def test_a_unit_outside_a_request_is_reported_with_both_lines(url: str, caplog: pytest.LogCaptureFixture) -> None:
    db = Database(url, hold_warning=0.2)
    go = threading.Event()

    def work() -> None:
        with db.begin() as session:
            session.execute(SELECT)
            go.wait(30.0)  # where it is

    thread = threading.Thread(target=work)
    thread.start()
    assert comes_true(lambda: "[held-too-long]" in caplog.text, 30.0)
    go.set()
    thread.join()
    db.close()
    assert re.search(r"db\.begin\(\) at test_b_leaks\.py:\d+ holds a connection for 0\.\d\d s", caplog.text)
    line = work.__code__.co_firstlineno + 3
    assert f"it is in work, test_b_leaks.py:{line}" in caplog.text


def test_a_task_that_holds_a_connection_is_found_where_it_waits(
    async_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(async_url, hold_warning=0.2)

    async def deeper(go: asyncio.Event) -> None:
        await go.wait()

    async def work(go: asyncio.Event) -> None:
        async with db.begin() as session:
            await session.execute(SELECT)
            await deeper(go)

    async def main() -> None:
        go = asyncio.Event()
        task = asyncio.create_task(work(go))
        async with asyncio.timeout(30.0):
            while "[held-too-long]" not in caplog.text:
                await asyncio.sleep(0.02)
        go.set()
        await task
        await db.aclose()

    asyncio.run(main())
    assert f"it is in deeper, test_b_leaks.py:{deeper.__code__.co_firstlineno + 1}" in caplog.text


def test_0_reports_nobody(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    quiet, loud = Database(sqlite_url, hold_warning=0), Database("sqlite://", hold_warning=0.2)
    with quiet.begin() as session, loud.begin() as other:
        session.execute(SELECT)
        other.execute(SELECT)
        assert comes_true(lambda: "[held-too-long]" in caplog.text, 30.0)
    quiet.close()
    loud.close()
    assert caplog.text.count("[held-too-long]") == 1


def test_a_unit_that_nobody_finishes_gives_its_place_back_when_it_is_collected(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(url, max_connections=1, queue_timeout=30.0)

    def forget() -> None:
        session: Session = db.begin().__enter__()
        session.execute(SELECT)

    for _ in range(3):
        forget()
        gc.collect()
        with db.begin() as session:  # with one connection, and no place but that one
            assert session.scalar(SELECT) == 1
    assert (db.stats().in_use, db.stats().open) == (0, 1)
    db.close()
    said = [record.getMessage() for record in caplog.records if "[unit-dropped]" in record.getMessage()]
    assert len(said) == 3
    assert re.match(r"db\.begin\(\) at test_b_leaks\.py:\d+ was never finished", said[0])


@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")  # psycopg's own word about it
def test_an_async_unit_that_nobody_finishes_gives_its_place_back(
    async_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(async_url, max_connections=1, queue_timeout=30.0)

    async def forget() -> None:
        session = await db.begin().__aenter__()
        await session.execute(SELECT)

    async def main() -> None:
        await forget()
        gc.collect()
        async with db.begin() as session:
            assert await session.scalar(SELECT) == 1
        await db.aclose()

    with pytest.warns(Warning, match="garbage collector"):  # SQLAlchemy's own word about the connection
        asyncio.run(main())
    assert "[unit-dropped]" in caplog.text


def test_the_thread_ends_with_close_and_with_the_database() -> None:
    def watching() -> int:
        return sum(one.name == "fastapi-database watch" for one in threading.enumerate())

    before = watching()
    db = Database("sqlite://")
    with db.begin() as session:
        session.execute(SELECT)
    assert watching() == before + 1
    db.close()
    assert comes_true(lambda: watching() == before, 10.0)
    with db.begin() as session:  # and another use watches again
        session.execute(SELECT)
    assert watching() == before + 1
    db.engine.dispose()  # its connections would complain that nobody closed them
    del db, session
    gc.collect()
    assert comes_true(lambda: watching() == before, 10.0)


def test_who_is_overdue_and_when_somebody_may_be_next() -> None:
    def held(number: int, since: float) -> Ticket:
        return Ticket(writer=False, owner=Named(str(number)), requested=since, number=number, granted=since)

    old, older, young = held(1, 10.0), held(2, 5.0), held(3, 19.0)
    assert overdue([], [], after=10.0, now=20.0) == ([], 10.0)
    assert overdue([old, older, young], [], after=10.0, now=20.0) == ([old, older], 9.0)
    assert overdue([old, older, young], [1, 2], after=10.0, now=20.0) == ([], 9.0)
    assert overdue([old, older], [], after=10.0, now=19.5) == ([older], 0.5)
