"""C1: many writers and readers on one SQLite file, from one process and from two."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest
from sqlalchemy import make_url

from apps.c_cases import KINDS, ROUTERS
from fastapi_database import Database
from support.clients import burst, send_burst, statuses
from support.run import Run
from support.server import Server

pytestmark = pytest.mark.load

APP = "apps.c_counter:app"
ROUTES = [f"/{number}/{kind}" for number in range(len(ROUTERS)) for kind in KINDS]
STEPS = 60
LESS_THAN_THE_BUSY_TIMEOUT = 3.0
STRANGER = f"""
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for _ in range({STEPS}):
    connection.execute("BEGIN IMMEDIATE")
    (value,) = connection.execute("SELECT value FROM counter").fetchone()
    connection.execute("UPDATE counter SET value = ?", [value + 1])
    connection.execute("COMMIT")
"""


@dataclass(frozen=True)
class Site:
    """Two processes that serve one file. The first has a connection for everybody, the second the usual ten."""

    file: str
    wide: Server
    usual: Server


@pytest.fixture(scope="module")
def site(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('c1') / 'counter.sqlite'}"
    file = make_counter(url)
    environments = {"DATABASE_URL": url, "PLACES": str(STEPS)}, {"DATABASE_URL": url}
    with ThreadPoolExecutor() as starting:
        wide, usual = starting.map(lambda env: Server(APP, run=run, env=env), environments)
    yield Site(file, wide, usual)
    wide.kill()
    usual.kill()


@pytest.mark.parametrize("route", ROUTES)
def test_c1_increments_of_two_processes_are_neither_lost_nor_locked_out(site: Site, route: str) -> None:
    before, wide, usual = value_in(site.file), len(site.wide.log()), len(site.usual.log())

    async def both() -> list[int]:
        bursts = [
            send_burst(server.url + route, STEPS, concurrency=STEPS, method="POST")
            for server in (site.wide, site.usual)
        ]
        return [answer.status for answers in await asyncio.gather(*bursts) for answer in answers]

    answered = asyncio.run(both())
    assert answered == [200] * 2 * STEPS
    assert value_in(site.file) - before == 2 * STEPS
    assert "locked" not in site.wide.log()[wide:] + site.usual.log()[usual:]


@pytest.mark.parametrize("route", ROUTES)
def test_c1_a_get_that_reads_and_then_writes_is_refused_or_counted(site: Site, route: str) -> None:
    """SQLite refuses a transaction that began with a SELECT when another one wrote since: 503, try again."""
    before = value_in(site.file)
    answered = statuses(burst(f"{site.wide.url}{route}/by-get", STEPS, concurrency=STEPS))
    assert set(answered) <= {200, 503}
    assert value_in(site.file) - before == answered[200] > 0


def test_c1_readers_are_not_blocked_by_a_writer_of_this_or_of_another_process(site: Site) -> None:
    server, start = site.usual, value_in(site.file)

    def everybody_reads(expected: int) -> None:
        for route in ROUTES:
            answers = burst(server.url + route, 8, concurrency=8, timeout=LESS_THAN_THE_BUSY_TIMEOUT)
            assert [answer.body for answer in answers] == [str(expected).encode()] * 8, route

    with ThreadPoolExecutor() as others, closing(sqlite3.connect(site.file, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        stranger.execute("UPDATE counter SET value = -1")
        waiting = others.submit(burst, server.url + ROUTES[0], 1, method="POST")
        try:
            everybody_reads(start)
        finally:
            stranger.execute("ROLLBACK")
        assert statuses(waiting.result()) == {200: 1}
        holding = others.submit(burst, f"{server.url}/0/hold", 1, method="POST")
        try:
            wait_until_somebody_writes(site.file)
            everybody_reads(start + 1)
        finally:
            burst(f"{server.url}/let-go", 1, method="POST")
        assert statuses(holding.result()) == {200: 1}
    everybody_reads(start + 1001)


def test_c1_units_of_threads_and_tasks_beside_a_stranger_lose_nothing(sqlite_url: str) -> None:
    """The same outside requests: `db.begin()` in threads, in tasks, and a program that knows nothing of us."""
    file = make_counter(sqlite_url)
    db = Database(sqlite_url, queue_timeout=30)
    read, write = "SELECT value FROM counter", "UPDATE counter SET value = :value"

    def step(_: int) -> None:
        with db.begin() as session:
            found = session.connection().exec_driver_sql(read).scalar_one()
            session.connection().exec_driver_sql(write, {"value": found + 1})

    async def steps() -> None:
        async def step() -> None:
            async with db.begin() as session:
                connection = await session.connection()
                found = (await connection.exec_driver_sql(read)).scalar_one()
                await connection.exec_driver_sql(write, {"value": found + 1})

        await asyncio.gather(*(step() for _ in range(STEPS)))

    stranger = subprocess.Popen([sys.executable, "-c", STRANGER, file])
    with ThreadPoolExecutor(20) as threads:
        tasks = threads.submit(asyncio.run, steps())
        list(threads.map(step, range(STEPS)))
        tasks.result()
    assert stranger.wait(60) == 0
    db.close()
    assert value_in(file) == 3 * STEPS


def make_counter(url: str) -> str:
    """Make the table with its one row, and give the path of the file."""
    file = str(make_url(url).database)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER)")
        connection.execute("INSERT INTO counter VALUES (1, 0)")
    connection.close()
    return file


def value_in(file: str) -> int:
    connection = sqlite3.connect(file)
    (value,) = connection.execute("SELECT value FROM counter").fetchone()
    connection.close()
    return int(value)


def wait_until_somebody_writes(file: str) -> None:
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    deadline = time.monotonic() + 10
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            break
        connection.execute("ROLLBACK")
        assert time.monotonic() < deadline, "nobody writes"
        threading.Event().wait(0.01)
    connection.close()
