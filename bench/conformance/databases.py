"""A subject's database as the checks see it: over connections of their own, never through the subject."""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from bench.conformance import schema
from bench.postgresql import TESTS

BUSY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    " AND state <> 'idle' AND application_name <> 'administrator'"
)


class Database(Protocol):
    """What every check may ask."""

    kind: str

    @property
    def url(self) -> str:
        """The URL without a driver."""

    def rows(self, mark: str, table: str = "items") -> int:
        """Count the rows whose name begins with `mark`."""


class PostgreSQLDatabase:
    """One database on a server of the run's own."""

    kind = "postgresql"

    def __init__(self, server: Any, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def url(self) -> str:
        return str(self.server.url(self.name))

    def rows(self, mark: str, table: str = "items") -> int:
        return int(self.execute(f"SELECT count(*) FROM {table} WHERE starts_with(name, %s)", mark)[0][0])

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement over a new connection."""
        return list(self.server.execute(sql, *parameters, database=self.name))

    def busy(self) -> int:
        """Count the subject's connections that are in a statement or in a transaction: checked out for certain."""
        return int(self.server.execute(BUSY, self.name)[0][0])

    def settled(self, *, within: float) -> int:
        """Wait until no connection is busy, at most `within` seconds, and return how many still are."""
        deadline = time.monotonic() + within
        while (busy := self.busy()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return busy

    def backends(self) -> int:
        """Count the subject's connections."""
        return len(self.server.backends(self.name))

    def running(self, part: str) -> int:
        """Count the statements of the subject that run now and contain `part`."""
        backends = self.server.backends(self.name)
        return sum(one.state == "active" and part in one.query for one in backends)

    def terminate(self) -> int:
        """End every connection of the subject, as a crash would."""
        return int(self.server.terminate_backends(self.name))


class SQLiteDatabase:
    """One file."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    def rows(self, mark: str, table: str = "items") -> int:
        with closing(sqlite3.connect(self._path, timeout=10)) as connection:
            found = connection.execute(f"SELECT count(*) FROM {table} WHERE substr(name, 1, ?) = ?", (len(mark), mark))
            return int(found.fetchone()[0])


@contextmanager
def postgresql_databases() -> Iterator[Any]:
    """Start a server for one run, which checks may stop, and yield a function that makes a subject's database."""
    sys.path.insert(0, str(TESTS))
    from support.postgres import private_server
    from support.run import Run

    run = Run.create()
    try:
        server = private_server(run)
        try:

            def make() -> PostgreSQLDatabase:
                database = PostgreSQLDatabase(server, server.create_database())
                database.execute(schema.POSTGRESQL)
                return database

            yield make
        finally:
            server.close()
    finally:
        run.close()


@contextmanager
def sqlite_databases() -> Iterator[Any]:
    """Make a directory for one run, and yield a function that makes a subject's file in it."""
    with tempfile.TemporaryDirectory(prefix="conformance-sqlite-") as directory:

        def make() -> SQLiteDatabase:
            number = len(list(Path(directory).glob("*.db")))
            path = Path(directory) / f"subject-{number}.db"
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(schema.SQLITE)
            return SQLiteDatabase(path)

        yield make


KINDS = {"postgresql": postgresql_databases, "sqlite": sqlite_databases}
