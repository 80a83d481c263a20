"""The application `b_life` served for as long as the tests last, once per database and driver."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from sqlalchemy import make_url

from support.clients import Answer, burst
from support.postgres import PostgreSQL
from support.run import Run
from support.server import Server

APP = "apps.b_life:app"
POOL = 5
NUMBERS = count(1)
FORMS = [
    *(
        (database, kind, router)
        for database in ("sqlite", "postgresql+psycopg")
        for kind in ("sync", "async")
        for router in ("own", "plain")
    ),
    *(("postgresql+asyncpg", "async", router) for router in ("own", "plain")),
]


@dataclass(eq=False)
class Served:
    """A server that outlives a test, with its database."""

    server: Server
    database_url: str
    postgresql: PostgreSQL | None

    @property
    def database_name(self) -> str | None:
        return make_url(self.database_url).database

    def ask(self, path: str, method: str = "GET", **options: Any) -> Answer:
        """Send one request."""
        (answer,) = burst(self.server.url + quote(path, safe="/?=&"), 1, method=method, **options)
        return answer

    def burst(self, path: str | Callable[[int], str], n: int, **options: Any) -> list[Answer]:
        """Send many; see `support.clients.burst`."""
        target = path if callable(path) else lambda _: path
        return burst(lambda i: self.server.url + quote(target(i), safe="/?=&"), n, **options)

    def watch(self) -> dict[str, int]:
        """Look inside."""
        return self.ask("/watch").json()

    def rows(self, text_of_note: str) -> int:
        """Count the notes with this text over a connection of our own."""
        return self.rows_like(text_of_note)

    def rows_like(self, pattern: str) -> int:
        """Count notes whose text fits a pattern of SQL over a connection of our own."""
        if self.postgresql is not None:
            sql = "SELECT count(*) FROM notes WHERE text LIKE %s"
            return self.postgresql.execute(sql, pattern, database=self.database_url)[0][0]
        with closing(sqlite3.connect(str(self.database_name))) as connection:
            return connection.execute("SELECT count(*) FROM notes WHERE text LIKE ?", [pattern]).fetchone()[0]

    def log_from_here(self) -> Callable[[], str]:
        """Give a function that gives what the server has written since."""
        start = len(self.server.log())
        return lambda: self.server.log()[start:]

    def is_at_rest(self) -> bool:
        seen = self.watch()
        if (seen["in_use"], seen["checked_out"], seen["waiting"]) != (0, 0, 0):
            return False
        return self.postgresql is None or not self.postgresql.idle_in_transaction(self.database_url)


@dataclass
class Form:
    """One of the forms that the endpoints of `b_life` stand in, on one database and driver."""

    served: Served
    database: str
    kind: str
    router: str

    @property
    def prefix(self) -> str:
        return f"/{self.kind}/{self.router}"

    @property
    def on_postgresql(self) -> bool:
        return self.database.startswith("postgresql")

    def ask(self, path: str, method: str = "GET", **options: Any) -> Answer:
        return self.served.ask(self.prefix + path, method, **options)

    def burst(self, path: str | Callable[[int], str], n: int, **options: Any) -> list[Answer]:
        target = path if callable(path) else lambda _: path
        return self.served.burst(lambda i: self.prefix + target(i), n, **options)


class Servers:
    """Starts servers on demand and keeps them; one that a test left in disorder is replaced."""

    def __init__(
        self, run: Run, directory: Path, *, app: str = APP, env: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._run = run
        self._directory = directory
        self._app = app
        self._env = env
        self._kept: dict[tuple[str, str, frozenset[tuple[str, str]]], Served] = {}

    def get(self, database: str, postgresql: PostgreSQL | None, env: Mapping[str, str], *, app: str = "") -> Served:
        """Give the server for a database ("sqlite", "postgresql+asyncpg", …), settings and application."""
        app = app or self._app
        key = (database, app, frozenset(env.items()))
        if key not in self._kept:
            self._kept[key] = self._start(database, postgresql, env, app)
        return self._kept[key]

    def forget(self, served: Served) -> None:
        """End a server; the next test gets a fresh one."""
        self._kept = {key: one for key, one in self._kept.items() if one is not served}
        served.server.kill()

    def close(self) -> None:
        for served in self._kept.values():
            served.server.kill()
            if served.postgresql is not None:
                served.postgresql.drop_database(served.database_url)

    def _start(self, database: str, postgresql: PostgreSQL | None, env: Mapping[str, str], app: str) -> Served:
        if postgresql is None:
            url = f"sqlite:///{self._directory / f'life-{next(NUMBERS)}.sqlite'}"
        else:
            url = postgresql.url(postgresql.create_database(), driver=database.partition("+")[2])
        settings = {"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": str(POOL), **self._env, **env}
        return Served(Server(app, run=self._run, env=settings), url, postgresql)


def comes_true(condition: Callable[[], bool], patience: float = 10.0) -> bool:
    """Wait until a condition holds; False when it does not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
