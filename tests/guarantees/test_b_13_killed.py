"""B13: connections that are killed while a transaction is under way, under load."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psycopg
import pytest

from support.clients import Answer, Connection, Request, burst, statuses
from support.postgres import PostgreSQL
from support.server import Server

pytestmark = pytest.mark.load

FORMS = [("sync", "psycopg"), ("async", "psycopg"), ("async", "asyncpg")]
NAMES = ["-".join(form) for form in FORMS]
KILLS = 200
CLIENTS, POOL = 10, 5
PATIENCE = 300.0  # seconds for all of them; some ten are needed
KILL = """
SELECT pid, pg_terminate_backend(pid) FROM (
    SELECT pid FROM pg_stat_activity
    WHERE datname = %s AND pid <> pg_backend_pid() AND NOT pid = ANY(%s) AND xact_start IS NOT NULL AND ({})
    ORDER BY random() LIMIT 3
) victims
"""
# Young enough that the signal is there long before the statement ends.
IN_A_STATEMENT = "query LIKE '%%pg_sleep%%' AND state = 'active' AND clock_timestamp() - query_start < '0.1 s'"
ANYWHERE = "true"


@contextmanager
def load(server: Server, kind: str, seconds: float) -> Generator[dict[str, Answer]]:
    """Write under a mark of its own in each request; gives what each was answered."""
    answers: dict[str, Answer] = {}
    marks = itertools.count()
    over = threading.Event()

    async def client() -> None:
        connection = Connection()
        while not over.is_set():
            name = f"m{next(marks)}"
            url = f"{server.url}/{kind}/notes/{name}?seconds={seconds}"
            answers[name] = await connection.send(Request("POST", url))
        connection.close()

    async def clients() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())

    sending = threading.Thread(target=asyncio.run, args=(clients(),))
    sending.start()
    try:
        yield answers
    finally:
        over.set()
        sending.join()


def kill(postgresql: PostgreSQL, url: str, which: str, *, enough: Callable[[int], bool]) -> int:
    """Kill connections, up to three at a time and each once, until enough are dead; the answer is how many are."""
    killed: list[int] = []
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(postgresql.url(), autocommit=True) as administrator:
        while not enough(len(killed)):
            assert time.monotonic() < deadline, f"only {len(killed)} were killed"
            victims = administrator.execute(KILL.format(which).encode(), [url.rpartition("/")[2], killed]).fetchall()
            killed += [pid for pid, signalled in victims if signalled]
    return len(killed)


@pytest.fixture(params=FORMS, ids=NAMES)
def served(
    request: pytest.FixtureRequest, serve: Callable[..., Server], postgresql: PostgreSQL, postgresql_url: str
) -> tuple[Server, str]:
    kind, driver = request.param
    postgresql.execute("CREATE TABLE notes (id SERIAL PRIMARY KEY, text TEXT)", database=postgresql_url)
    url = postgresql_url.replace("postgresql:", f"postgresql+{driver}:")
    return serve("apps.b_death:app", env={"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": str(POOL)}), kind


def test_b13_only_the_requests_whose_connection_was_killed_are_answered_503(
    served: tuple[Server, str], postgresql: PostgreSQL, postgresql_url: str
) -> None:
    server, kind = served
    with load(server, kind, 0.3) as answers:
        # One whose statement has ended before the signal came was not hit: whoever was is known from the answers.
        killed = kill(
            postgresql, postgresql_url, IN_A_STATEMENT, enough=lambda _: statuses(list(answers.values()))[503] >= KILLS
        )
    seen = statuses(answers.values())
    assert set(seen) <= {201, 503}, seen
    assert {one.json()["code"] for one in answers.values() if one.status == 503} == {"connection-lost"}
    assert KILLS <= seen[503] <= killed
    assert stored(postgresql, postgresql_url) == {mark for mark, one in answers.items() if one.status == 201}
    assert statuses(burst(f"{server.url}/{kind}/one", 100, concurrency=POOL)) == {200: 100}
    assert "Traceback" not in server.log()


def test_a10_whoever_is_killed_anywhere_is_told_what_is_known(
    served: tuple[Server, str], postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """Also in the COMMIT, and with COMMIT on its way."""
    server, kind = served
    with load(server, kind, 0.0) as answers:
        kill(postgresql, postgresql_url, ANYWHERE, enough=lambda killed: killed >= KILLS)
    problems = {one.body for one in answers.values() if one.status != 201 and b'"code"' not in one.body}
    assert not problems, f"{problems}\n{server.log()}"
    told = {mark: one.json()["code"] if one.status != 201 else "stored" for mark, one in answers.items()}
    assert set(told.values()) <= {"stored", "connection-lost", "outcome-unknown"}
    there = stored(postgresql, postgresql_url)
    assert {mark for mark, code in told.items() if code == "stored"} <= there
    assert not {mark for mark, code in told.items() if code == "connection-lost"} & there
    assert statuses(burst(f"{server.url}/{kind}/one", 100, concurrency=POOL)) == {200: 100}
    assert "Traceback" not in server.log()


def stored(postgresql: PostgreSQL, url: str) -> set[str]:
    return {row[0] for row in postgresql.execute("SELECT text FROM notes", database=url)}
