"""The proxy that the tests of lost connections rely on: it fails where it is told to, and nowhere else."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import make_url

from support.postgres import PostgreSQL
from support.proxy import Fault, Proxy, Test, answers, ready_after, sends

DRIVERS = ["psycopg", "psycopg-async", "asyncpg"]
LOST = (psycopg.OperationalError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)


@pytest.fixture(params=DRIVERS)
def ask(request: pytest.FixtureRequest, proxy: Proxy, postgresql_url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Run statements on one connection through the proxy; the answer is the rows of the last one."""
    url = make_url(postgresql_url).set(port=proxy.port).render_as_string(hide_password=False)

    def execute(*statements: str) -> list[tuple[Any, ...]]:
        if request.param == "psycopg":
            with psycopg.connect(url, autocommit=True) as connection:
                cursor = connection.cursor()
                for statement in statements:
                    cursor.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        through = ask_asyncpg if request.param == "asyncpg" else ask_psycopg
        return asyncio.run(through(url, statements))

    return execute


async def ask_asyncpg(url: str, statements: tuple[str, ...]) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return [tuple(row) for row in await connection.fetch(statements[-1])]
    finally:
        connection.terminate()


async def ask_psycopg(url: str, statements: tuple[str, ...]) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = connection.cursor()
        for statement in statements:
            await cursor.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


@pytest.fixture
def rows(postgresql: PostgreSQL, postgresql_url: str) -> Callable[[], int]:
    """Count the rows that are stored, past the proxy."""
    postgresql.execute("CREATE TABLE t (id INT)", database=postgresql_url)
    return lambda: postgresql.execute("SELECT count(*) FROM t", database=postgresql_url)[0][0]


WRITE = ("BEGIN", "INSERT INTO t VALUES (1)", "COMMIT")


def test_everything_passes_when_nothing_is_to_fail(ask: Any, rows: Any, proxy: Proxy) -> None:
    assert ask(*WRITE, "SELECT repeat('x', 1000000)") == [("x" * 1000000,)]
    assert (rows(), proxy.connects) == (1, 1)


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RESET])
@pytest.mark.parametrize(
    "case",
    [
        (sends("COMMIT"), 0.0, 0),
        (sends("COMMIT"), 0.5, 0),
        (sends("COMMIT"), 1.0, None),  # who is quicker: the server's reading or the end?
        (answers("COMMIT"), 0.0, 1),
        (answers("COMMIT"), 0.5, 1),
        (ready_after("COMMIT"), 0.0, 1),
    ],
    ids=["before", "half sent", "sent", "answered", "half answered", "before ready"],
)
def test_a_connection_is_lost_at_each_step_of_a_commit(
    ask: Any, rows: Any, proxy: Proxy, case: tuple[Test, float, int | None], fault: Fault
) -> None:
    step, part, stored = case
    rule = proxy.fail(step, fault, part=part)
    with pytest.raises(LOST):
        ask(*WRITE)
    assert rule.hit.is_set()
    assert stored is None or rows() == stored
    assert ask("SELECT 1") == [(1,)]  # a fault happens once


def test_a_black_hole_answers_nothing_and_ends_nothing(proxy: Proxy) -> None:
    asyncio.run(hang(proxy))


async def hang(proxy: Proxy) -> None:
    proxy.meet(Fault.BLACK_HOLE)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"\0\0\0\x08\x04\xd2\x16\x2f")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    proxy.meet(None)
    writer.close()
    await writer.wait_closed()


def test_a_message_can_be_late(ask: Any, proxy: Proxy) -> None:
    proxy.fail(sends("SELECT 2"), None, delay=0.3)
    start = time.monotonic()
    assert ask("SELECT 2") == [(2,)]
    assert time.monotonic() - start >= 0.3


def test_new_connections_are_refused_reset_and_made_again(ask: Any, proxy: Proxy) -> None:
    proxy.meet(Fault.RESET)
    with pytest.raises(LOST):
        ask("SELECT 1")
    assert proxy.connects >= 1
    proxy.refuse()
    seen = proxy.connects
    with pytest.raises(LOST):
        ask("SELECT 1")
    assert proxy.connects == seen
    proxy.meet(None)
    proxy.accept()
    assert ask("SELECT 1") == [(1,)]
