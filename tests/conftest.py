"""Fixtures: real databases, real servers, and the check that a test leaves nothing behind."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.leftovers import nothing_left
from support.pgbouncer import NoPgBouncerError, PgBouncer
from support.postgres import (
    Backend,
    LocalServer,
    NoPostgreSQLError,
    PostgreSQL,
    private_server,
    shared_server,
)
from support.proxy import Proxy, proxied
from support.run import Run
from support.server import Server

RUN = pytest.StashKey[Run]()
SERVERS = pytest.StashKey[list[Server]]()
TAIL = 60
PATIENCE = 2.0
S = TypeVar("S")


def pytest_configure(config: pytest.Config) -> None:
    """Open the run that all workers share; the process that pytest was started as owns it."""
    given = getattr(config, "workerinput", {}).get("run_directory")
    config.stash[RUN] = Run(Path(given)) if given else Run.create()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End whatever still runs."""
    config.stash[RUN].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput["run_directory"] = str(node.config.stash[RUN].directory)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers of a failed test wrote last."""
    report = yield
    if report.failed:
        for server in item.stash.get(SERVERS, []):
            tail = "\n".join(server.log().splitlines()[-TAIL:])
            report.sections.append((f"log of uvicorn at {server.url}", tail))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly that the tests on PostgreSQL did not run."""
    for what in ("PostgreSQL", "PgBouncer"):
        skipped = [one for one in terminalreporter.stats.get("skipped", []) if f"no {what}:" in str(one.longrepr)]
        if skipped:
            terminalreporter.section(f"{what} is missing", red=True)
            terminalreporter.line(f"{len(skipped)} tests did NOT run: {skipped[0].longrepr[2]}", red=True)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """The run that this process belongs to: its directory, free ports, and the guard of its processes."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def postgresql(run: Run) -> PostgreSQL:
    """The PostgreSQL server that all tests share: make databases in it, look at them, never stop it."""
    return _or_skip(shared_server, run)


@pytest.fixture(scope="session")
def pgbouncer(run: Run, postgresql: PostgreSQL) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode in front of it, with three connections to the server for each database."""
    pooler = _or_skip(lambda run: PgBouncer(run, postgresql), run)
    yield pooler
    pooler.close()


@pytest.fixture
def proxy(postgresql: PostgreSQL) -> Iterator[Proxy]:
    """Give a proxy before the shared PostgreSQL that can delay, cut, drop and swallow."""
    with proxied(postgresql.port) as one:
        yield one


@pytest.fixture
def private_postgresql(run: Run) -> Iterator[LocalServer]:
    """A running PostgreSQL server that belongs to this test, to be stopped, killed and started again."""
    server = _or_skip(private_server, run)
    yield server
    server.close()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """The URL of an empty PostgreSQL database; leaving a transaction open in it fails the test."""
    name = postgresql.create_database()
    yield postgresql.url(name)
    left = _idle_in_transaction(postgresql, name)
    postgresql.drop_database(name)
    assert not left, f"transactions left open: {left}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, once for each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=["sqlite", "postgresql+psycopg", "postgresql+asyncpg"])
def async_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, once for each driver that asynchronous sessions run on."""
    kind, plus, driver = request.param.partition("+")
    return request.getfixturevalue(f"{kind}_url").replace(f"{kind}:", f"{kind}{plus}{driver}:", 1)


@pytest.fixture
def serve(request: pytest.FixtureRequest, run: Run) -> Iterator[Callable[..., Server]]:
    """Start applications under a real uvicorn, each in its own process, which ends with the test.

    `serve(app, env=…, args=…, loop=…)` takes the parameters of `support.server.Server`.
    """
    servers = request.node.stash.setdefault(SERVERS, [])

    def start(app: str, **options: Any) -> Server:
        server = Server(app, run=run, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


def _or_skip(start: Callable[[Run], S], run: Run) -> S:
    """Skip the test where there is no such server, except in continuous integration: there it fails."""
    try:
        return start(run)
    except (NoPostgreSQLError, NoPgBouncerError) as error:
        reason = str(error)
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _idle_in_transaction(server: PostgreSQL, name: str) -> list[Backend]:
    """Find transactions that stay open; those of a process that was killed end a moment later."""
    deadline = time.monotonic() + PATIENCE
    while (left := server.idle_in_transaction(name)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
