"""The public ``Database``: what the core offers, and what FastAPI needs of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, FastAPI
from sqlalchemy.engine import URL
from starlette.requests import HTTPConnection

from fastapi_database.core.admission import REFUSALS
from fastapi_database.core.database import CoreDatabase
from fastapi_database.core.unit import Kind
from fastapi_database.errors import BuiltInsideRequest, NotInstalled, OutsideRequest
from fastapi_database.web import internals
from fastapi_database.web.health import health_router
from fastapi_database.web.install import install
from fastapi_database.web.units import SCOPE_KEY, RequestUnits

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

R = TypeVar("R")

_OUTSIDE: HTTPConnection = HTTPConnection({"type": "http"})  # what a session dependency gets when FastAPI gives none


def _of_a_request(
    kind: Kind,
) -> Callable[[Callable[[Database, HTTPConnection], Coroutine[Any, Any, R]]], Callable[..., Coroutine[Any, Any, R]]]:
    """Mark a dependency with the kind of session it gives, and refuse at once to be called by hand.

    A coroutine function would only say that a coroutine is no context manager: ``with db.session() as session:``.
    """

    def decorate(
        function: Callable[[Database, HTTPConnection], Coroutine[Any, Any, R]],
    ) -> Callable[..., Coroutine[Any, Any, R]]:
        @functools.wraps(function)  # through which FastAPI sees that it is to be awaited
        def call(db: Database, connection: HTTPConnection = _OUTSIDE) -> Coroutine[Any, Any, R]:
            if connection is _OUTSIDE:
                raise OutsideRequest(
                    f"db.{function.__name__} was called outside a request; it is a dependency: "
                    f"Depends(db.{function.__name__}). Elsewhere write `with db.begin() as session:` or "
                    "`async with db.begin() as session:`"
                )
            return function(db, connection)

        call.gives_session = kind  # type: ignore[attr-defined]
        return call

    return decorate


class Database(CoreDatabase):
    """A database, for as long as the process lives: engines, admission, sessions, closing.

    Make one per database, at module level. Making it connects to nothing and imports no driver.

    ``url`` is what SQLAlchemy or libpq take: ``sqlite:///app.db``, ``sqlite://`` (memory), ``postgresql://…`` (also
    ``postgres://``, several hosts, ``sslmode=…``). The driver is chosen, psycopg for sync and asyncpg for async
    sessions, unless the URL names one (``postgresql+psycopg://``). Without a URL, ``DATABASE_URL`` and its friends
    are read from the environment (``config.ENVIRONMENT``).

    ``models`` is a declarative base, a ``MetaData``, or a list of them, for ``create_all``. ``max_connections`` bounds
    the connections that may be open, sync and async together (default 10); ``queue_timeout`` is how many seconds a
    request waits for one before it is answered with 503 (default 5.0); ``max_waiting`` is how many may wait (default
    1000), and once some must be refused, the queue is kept so short that who waits is served within some
    ``queue_target`` seconds (default 0.2). ``statement_timeout`` and ``lock_timeout`` are how many seconds the database
    lets one statement run, and wait for a lock (default 30.0 and 5.0; 0 is no limit). ``hold_warning`` is after how
    many seconds the log says who holds a connection (default 30.0; 0 never). ``transaction_pooler=True`` says that the
    URL leads to PgBouncer in transaction mode (default False). ``sqlite_on_event_loop`` is for SQLite alone: whether
    async sessions run short statements on the event loop (default True).

    Every option of ``create_engine`` and of ``Session`` passes through by its own name.

    Raises one of the ``ConfigurationError`` family for a setting that is unknown (with a suggestion), conflicting or
    malformed, and when it is built inside a request.

    >>> Database("sqlite://", echo=False)
    <Database sqlite:// in_use=0/10 waiting=0 open=0>
    """

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        models: object = None,
        max_connections: int | None = None,
        queue_timeout: float | None = None,
        queue_target: float | None = None,
        max_waiting: int | None = None,
        statement_timeout: float | None = None,
        lock_timeout: float | None = None,
        hold_warning: float | None = None,
        transaction_pooler: bool | None = None,
        sqlite_on_event_loop: bool | None = None,
        **sqlalchemy_options: Any,
    ) -> None:
        _refuse_inside_request()
        super().__init__(
            url,
            models=models,
            max_connections=max_connections,
            queue_timeout=queue_timeout,
            queue_target=queue_target,
            max_waiting=max_waiting,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            hold_warning=hold_warning,
            transaction_pooler=transaction_pooler,
            sqlite_on_event_loop=sqlite_on_event_loop,
            **sqlalchemy_options,
        )

    def install(self, app: FastAPI) -> None:
        """Wire this database into an application: the one line it needs.

        Composes the lifespan with the application's own, registers error handlers (those of the application win), makes
        :class:`DatabaseRoute` the application's route class, and adds one pure ASGI middleware, innermost. Call it
        before or after routers and middleware. Several databases may be installed in one application.

        Raises ``AlreadyInstalled`` on a second call and ``InstalledTooLate`` once the application has started.

        >>> app = FastAPI()
        >>> Database("sqlite://").install(app)
        """
        install(self._resources, app)

    @_of_a_request(Kind.SYNC)
    async def session(self, connection: HTTPConnection = _OUTSIDE) -> Session:
        """Give the request's ``Session``: ``Depends(db.session)``, for ``def`` endpoints and dependencies.

        However it is asked for, it is one session per request, and so one transaction. It commits when the answer is
        below 400, before the client can read it, and rolls back otherwise. A place in the queue is taken here, a
        connection at the first statement; waiting is bounded by ``queue_timeout`` and answered with 503. After the
        request the session refuses to work.
        """
        return await self._units(connection).sync_session(self._resources)

    @_of_a_request(Kind.ASYNC)
    async def async_session(self, connection: HTTPConnection = _OUTSIDE) -> AsyncSession:
        """Give the request's ``AsyncSession``: ``Depends(db.async_session)``, for ``async def`` endpoints.

        As :meth:`session`, but the place in the queue is taken at the first statement, so that an endpoint that waits
        for something else first holds nothing.
        """
        return self._units(connection).async_session(self._resources)

    def health(self) -> APIRouter:
        """Build a router with ``/live`` and ``/ready``: ``app.include_router(db.health(), prefix="/health")``.

        ``/live`` answers 200 whatever the database does. ``/ready`` answers 200 while the database answers anything,
        however busy it is, and 503 within a second of becoming unreachable. Probes leave no connection behind.
        """
        return health_router(self._resources)

    def _units(self, connection: HTTPConnection) -> RequestUnits:
        units: RequestUnits | None = connection.scope.get(SCOPE_KEY)
        if units is None:
            raise NotInstalled(
                "a session was asked for in an application this library does not know: call db.install(app) where the "
                "application is made; without it nobody would commit or close the session"
            )
        units.asked_in(connection.scope)
        return units


def _refuse_inside_request() -> None:
    refusals = REFUSALS.get()
    if (refusals is not None and not refusals.over) or internals.inside_fastapi_call():
        raise BuiltInsideRequest(
            "a Database was built while a request was being handled: each opens connections of its own, so every "
            "request would open new ones that nobody closes. Build it once, at module level or where the app "
            "is made, and use Depends(db.session) or `db.begin()` in the request"
        )
