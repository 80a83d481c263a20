"""B14: a database that is away for a while, hangs, or takes no writes any more."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from apps.b_load import Load
from apps.b_serving import comes_true
from apps.c_cases import Kind, work
from fastapi_database import Database
from support.clients import burst, statuses
from support.postgres import LocalServer
from support.proxy import Fault, Proxy, proxied
from support.run import Run
from support.server import Server

pytestmark = pytest.mark.load

FORMS = [("sync", "psycopg"), ("async", "psycopg"), ("async", "asyncpg")]
NAMES = ["-".join(form) for form in FORMS]
POOL = 5
OUTAGE = 10.0
SLACK = 5  # how many times a stated deadline a noisy machine gets
TABLE = "CREATE TABLE notes (id SERIAL PRIMARY KEY, text TEXT)"


@pytest.fixture
def proxy(private_postgresql: LocalServer) -> Iterator[Proxy]:
    private_postgresql.execute(TABLE)
    with proxied(private_postgresql.port) as one:
        yield one


def start(serve: Callable[..., Server], url: str, port: int, driver: str) -> Server:
    target = make_url(url).set(drivername=f"postgresql+{driver}", port=port).render_as_string(hide_password=False)
    return serve("apps.b_death:app", env={"DATABASE_URL": target, "DATABASE_MAX_CONNECTIONS": str(POOL)})


@pytest.mark.parametrize(("kind", "driver"), FORMS, ids=NAMES)
def test_b14_while_the_server_is_stopped_all_are_503_at_once_and_few_connect(
    serve: Callable[..., Server], private_postgresql: LocalServer, proxy: Proxy, kind: str, driver: str
) -> None:
    server = start(serve, private_postgresql.url(), proxy.port, driver)
    with Load(server, kind) as load:
        assert comes_true(lambda: len(load.answers) > 30)
        private_postgresql.stop()
        stopped, connects = time.monotonic(), proxy.connects
        time.sleep(OUTAGE)  # the outage itself
        meanwhile = load.since(stopped)
        tried = proxy.connects - connects
        private_postgresql.start()
        back = time.monotonic()
        assert comes_true(lambda: any(one.status == 201 for one in load.since(back)), 2.0 * SLACK)
    assert set(statuses(meanwhile)) == {503}
    assert max(one.seconds for one in meanwhile) < 2.0 * SLACK
    assert all(int(one.headers["retry-after"]) >= 1 for one in meanwhile)
    # Without encryption being offered, an attempt is two connects: one that asks for it and one that does not.
    # The first ones come in a quick row, then one in half a second at the most.
    assert 1 <= tried <= 2 * (POOL + 5 + 2 * OUTAGE)
    assert len(meanwhile) > 3 * tried
    assert set(statuses(load.since(back))) <= {201, 503}
    assert statuses(burst(f"{server.url}/{kind}/notes/y", 50, method="POST", concurrency=5)) == {201: 50}
    assert server.log().count("can be reached again") == 1
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(("kind", "driver"), FORMS, ids=NAMES)
def test_b14_while_nothing_answers_all_are_503_in_time(
    serve: Callable[..., Server], private_postgresql: LocalServer, proxy: Proxy, kind: str, driver: str
) -> None:
    server = start(serve, private_postgresql.url(), proxy.port, driver)
    with Load(server, kind) as load:
        assert comes_true(lambda: len(load.answers) > 30)
        proxy.meet(Fault.BLACK_HOLE)
        proxy.end_all()
        lost = time.monotonic()
        time.sleep(OUTAGE)  # the outage itself
        meanwhile = load.since(lost)
        proxy.meet(None)
        proxy.end_all()
        back = time.monotonic()
        assert comes_true(lambda: any(one.status == 201 for one in load.since(back)), 2.0 * SLACK)
    assert len(meanwhile) > 2 * POOL
    assert set(statuses(meanwhile)) == {503}
    assert max(one.seconds for one in meanwhile) < 2.0 * SLACK
    assert "Traceback" not in server.log()


@pytest.fixture
def promoted(run: Run, private_postgresql: LocalServer) -> Iterator[LocalServer]:
    """The server that takes over: it has the same users and tables."""
    server = LocalServer(private_postgresql.prepared, run)
    server.start()
    server.execute(TABLE)
    yield server
    server.close()


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_b14_a_demoted_primary_that_keeps_its_connections_is_left_for_the_new_one(
    serve: Callable[..., Server],
    private_postgresql: LocalServer,
    promoted: LocalServer,
    proxy: Proxy,
    form: tuple[str, str],
) -> None:
    kind, driver = form
    server = start(serve, private_postgresql.url(), proxy.port, driver)
    with Load(server, kind) as load:
        assert comes_true(lambda: len(load.answers) > 30)
        private_postgresql.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        private_postgresql.execute("SELECT pg_reload_conf()")
        assert comes_true(lambda: any(one.status == 503 for _, one in list(load.answers)))
        proxy.lead_to(promoted.port)
        moved = time.monotonic()
        assert comes_true(lambda: any(one.status == 201 for one in load.since(moved)), 5.0 * SLACK)
        settled = time.monotonic()
        assert comes_true(lambda: len(load.since(settled)) > 30)
    refused = [one.json()["code"] for _, one in load.answers if one.status != 201]
    assert set(refused) == {"read-only"}
    assert statuses(burst(f"{server.url}/{kind}/notes/y", 50, method="POST", concurrency=5)) == {201: 50}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(("kind", "driver"), FORMS, ids=NAMES)
def test_b14_a_unit_that_made_its_own_transaction_read_only_costs_no_connection(
    postgresql_url: str, kind: Kind, driver: str
) -> None:
    db = Database(postgresql_url.replace("postgresql:", f"postgresql+{driver}:"))

    async def main() -> set[int | None]:
        pids = set()
        for _ in range(3):
            async with db.begin() as session:
                pids.add(await session.run_sync(backend))
            with pytest.raises(DBAPIError):
                await refused(db)
        await db.aclose()
        return pids

    if kind == "async":
        pids = asyncio.run(main())
    else:
        pids = set()
        for _ in range(3):
            pids.add(work(db, kind, backend))
            with pytest.raises(DBAPIError):
                work(db, kind, write_read_only)
        db.close()
    assert len(pids) == 1


def backend(session: Session) -> int | None:
    return session.scalar(text("SELECT pg_backend_pid()"))


def write_read_only(session: Session) -> None:
    session.execute(text("SET TRANSACTION READ ONLY"))
    session.execute(text("CREATE TABLE t (id INT)"))


async def refused(db: Database) -> None:
    async with db.begin() as session:
        await session.run_sync(write_read_only)
