"""What the A tests run against: `apps.a_app` on every database and driver, in every form."""

import itertools
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Engine, StaticPool, create_engine, text

from apps.a_forms import KINDS, ROUTES, Kind, Route
from support.clients import Answer, Request, burst
from support.postgres import PostgreSQL, with_psycopg
from support.run import Run
from support.server import Server

APP = "apps.a_app:create"
POOL = 5
PATIENT = {"DATABASE_QUEUE_TIMEOUT": "60"}
"""The tests are about truth: on a machine that is busy with other things a 503 would be true, but no answer to them."""
NUMBERS = itertools.count(1)
BACKENDS = ("sqlite", "postgresql", "postgresql+psycopg")
"""`postgresql` is psycopg for sync and asyncpg for async sessions; `postgresql+psycopg` is psycopg for both."""
CELLS: list[tuple[str, Kind, Route]] = [
    (backend, kind, route)
    for backend in BACKENDS
    for kind in KINDS
    for route in ROUTES
    if (backend, kind) != ("postgresql+psycopg", "sync")  # the same as on `postgresql`
]
SPREAD: list[tuple[str, Kind, Route]] = [
    ("sqlite", "sync", "database"),
    ("sqlite", "async", "plain"),
    ("postgresql", "sync", "plain"),
    ("postgresql", "async", "database"),
]
"""Each database, kind and class of route twice: where exact counts would take too long on every cell."""


class Backend:
    """An empty database, and the server that was started on it."""

    def __init__(self, name: str, url: str, run: Run, postgresql: PostgreSQL | None) -> None:
        self.name = name
        self.url = url
        self.postgresql = postgresql
        self._run = run
        self._server: Server | None = None
        self._look: Engine = create_engine(with_psycopg(url), isolation_level="AUTOCOMMIT", poolclass=StaticPool)

    @property
    def server(self) -> Server:
        """The application, started on first use."""
        if self._server is None:
            self._server = self.serve()
        return self._server

    def log(self) -> str:
        """Give what the server has written so far."""
        return "" if self._server is None else self._server.log()

    def serve(self, app: str = APP, *, factory: bool = True, **env: str) -> Server:
        """Start another application on this database."""
        settings = {"DATABASE_URL": self.url, "DATABASE_MAX_CONNECTIONS": str(POOL), **PATIENT, **env}
        return Server(app, run=self._run, env=settings, args=["--factory"] if factory else [])

    @property
    def prefixes(self) -> list[str]:
        """The forms of the application that are tested on this database."""
        return [f"/{kind}/{route}" for name, kind, route in CELLS if name == self.name]

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Look into the database over a connection of our own."""
        with self._look.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), parameters)]

    def count(self, name: str, table: str = "things") -> int:
        """Count the rows whose name begins so."""
        sql = f"SELECT count(*) FROM {table} WHERE name LIKE :name"
        return self.rows(sql, name=f"{name}%")[0][0]

    def count_exactly(self, name: str) -> int:
        """Count the things of this name."""
        return self.rows("SELECT count(*) FROM things WHERE name = :name", name=name)[0][0]

    def close(self) -> None:
        self._look.dispose()
        if self._server is not None:
            self._server.kill()
        if self.postgresql is not None:
            self.postgresql.drop_database(self.url)


@dataclass(frozen=True)
class Cell:
    """One form of the application on one database and driver."""

    backend: Backend
    kind: Kind
    route: Route

    @property
    def on_sqlite(self) -> bool:
        return self.backend.name == "sqlite"

    @property
    def prefix(self) -> str:
        return f"/{self.kind}/{self.route}"

    def path(self, path: str, **query: object) -> str:
        """Give the path of one of this form's endpoints."""
        return f"{self.prefix}{quote(path)}?{urlencode(query)}"

    def url(self, path: str, **query: object) -> str:
        return self.backend.server.url + self.path(path, **query)

    def request(self, method: str, path: str, json: object = None, **query: object) -> Request:
        return Request(method, self.url(path, **query), json)

    def post(self, path: str, json: object = None, **query: object) -> Answer:
        """Send one POST."""
        return burst(self.url(path, **query), 1, method="POST", json=json)[0]

    def get(self, path: str, **query: object) -> Answer:
        """Send one GET."""
        return burst(self.url(path, **query), 1)[0]

    def name(self) -> str:
        """Invent a name that nobody else uses in this database."""
        return f"{self.kind}-{self.route}-{next(NUMBERS)}-{secrets.token_hex(4)}"


class Backends:
    """Makes databases on demand and keeps them."""

    def __init__(self, run: Run, postgresql: Callable[[], PostgreSQL]) -> None:
        self._run = run
        self._postgresql = postgresql
        self._kept: dict[str, Backend] = {}

    def get(self, name: str) -> Backend:
        """Give the database that tests share."""
        if name not in self._kept:
            self._kept[name] = self.make(name)
        return self._kept[name]

    def make(self, name: str) -> Backend:
        """Make a database that belongs to the caller, who has to close it."""
        if name == "sqlite":
            file = self._run.directory / f"a-{secrets.token_hex(8)}.sqlite"
            return Backend(name, f"sqlite:///{file}", self._run, None)
        server = self._postgresql()
        database = server.create_database()
        with suppress(InsufficientPrivilege):  # 1 s by default, for each of many deadlocks
            server.execute(f"ALTER DATABASE {database} SET deadlock_timeout = '20ms'")
        return Backend(name, server.url(database, driver=name.partition("+")[2] or None), self._run, server)

    def close(self) -> None:
        for backend in self._kept.values():
            backend.close()
