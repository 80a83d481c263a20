"""The databases: a SQLite file or a PostgreSQL database for each peer, filled with the same rows.

A peer has a database of its own because an application may change it for everybody: ours switches a SQLite
file to write-ahead logging. Nothing about durability is touched: PostgreSQL keeps fsync and synchronous_commit.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, delete, insert, make_url, text

from bench.apps.model import LISTED, Base, User
from bench.postgresql import postgresql
from bench.subjects import PEERS, Peer

ROWS = [{"id": n, "name": f"User {n}", "email": f"user{n}@example.com"} for n in range(1, LISTED + 1)]
SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_connections")


class Databases(Protocol):
    """One database per peer."""

    def prepare(self, peer: Peer) -> str:
        """Make the peer's database with its rows; return the URL without a driver."""

    def reset(self, peer: Peer) -> None:
        """Remove what POST added, so that every measurement finds the same table."""

    def facts(self) -> dict[str, str]:
        """Return the version and the settings that decide what a commit costs."""


class PostgreSQL:
    """One database per peer on one server."""

    def __init__(self, server: str) -> None:
        self._made: set[str] = set()
        self._server = _engine(make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")

    def prepare(self, peer: Peer) -> str:
        """Make the database and its rows."""
        self._execute(f"DROP DATABASE IF EXISTS {_name(peer)} WITH (FORCE)")
        self._execute(f"CREATE DATABASE {_name(peer)}")
        self._made.add(_name(peer))
        with self._connect(peer) as connection:
            _fill(connection)
            connection.execute(text(f"SELECT setval(pg_get_serial_sequence('users', 'id'), {LISTED})"))
            connection.commit()
        url = self._server.url.set(drivername="postgresql", database=_name(peer))
        return url.render_as_string(hide_password=False)

    def reset(self, peer: Peer) -> None:
        """Remove what POST added, dead rows included."""
        with self._connect(peer) as connection:
            connection.execute(delete(User).where(User.id > LISTED))
            connection.commit()
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM users"))

    def facts(self) -> dict[str, str]:
        """Ask the server."""
        with self._server.connect() as connection:
            return {name: str(connection.scalar(text(f"SHOW {name}"))) for name in SETTINGS}

    def close(self) -> None:
        """Drop the databases: the server may be somebody's own."""
        for name in self._made:
            self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _connect(self, peer: Peer) -> Connection:
        return _engine(self._server.url.set(database=_name(peer))).connect()

    def _execute(self, statement: str) -> None:
        with self._server.connect() as connection:
            connection.execute(text(statement))


class SQLite:
    """One file per peer in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self, peer: Peer) -> str:
        """Make the file and its rows."""
        with self._connect(peer) as connection:
            _fill(connection)
            connection.commit()
        return self._url(peer).render_as_string()

    def reset(self, peer: Peer) -> None:
        """Remove what POST added."""
        with self._connect(peer) as connection:
            connection.execute(delete(User).where(User.id > LISTED))
            connection.commit()

    def facts(self) -> dict[str, str]:
        """Ask the files: the journal mode shows what the applications changed."""
        facts = {}
        for peer in PEERS:
            if Path(self._url(peer).database or "").exists():
                with self._connect(peer) as connection:
                    facts["server_version"] = str(connection.scalar(text("SELECT sqlite_version()")))
                    facts[f"journal_mode, {peer.label}"] = str(connection.scalar(text("PRAGMA journal_mode")))
        return facts

    def _connect(self, peer: Peer) -> Connection:
        return _engine(self._url(peer)).connect()

    def _url(self, peer: Peer) -> URL:
        return URL.create("sqlite", database=str(self._directory / f"{peer.name}.db"))


@contextmanager
def postgresql_databases() -> Iterator[Databases]:
    """Start a PostgreSQL server for one run."""
    with postgresql() as url:
        server = PostgreSQL(url)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def sqlite_databases() -> Iterator[Databases]:
    """Make a directory for one run."""
    with tempfile.TemporaryDirectory(prefix="bench-sqlite-") as directory:
        yield SQLite(Path(directory))


DATABASES = {"postgresql": postgresql_databases, "sqlite": sqlite_databases}


def _engine(url: URL, **options: str) -> Engine:
    return create_engine(url, poolclass=NullPool, **options)


def _fill(connection: Connection) -> None:
    Base.metadata.create_all(connection)
    connection.execute(insert(User), ROWS)


def _name(peer: Peer) -> str:
    return f"fastapi_database_bench_{peer.name}"
