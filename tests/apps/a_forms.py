"""One handler, registered in every form that an application may give it.

A form is a kind of session (sync, async) on a class of route (`DatabaseRoute`, FastAPI's own). A handler is
written once, as `async def` over `Either`; a form registers it as a true `def` or `async def` endpoint.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Annotated, Any, Literal

import fastapi
from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import fastapi_database
from fastapi_database import Database

Kind = Literal["sync", "async"]
Route = Literal["database", "plain"]
KINDS: tuple[Kind, ...] = ("sync", "async")
ROUTES: tuple[Route, ...] = ("database", "plain")
PATIENCE = 30.0
ROUTERS = {"database": fastapi_database.APIRouter, "plain": fastapi.APIRouter}


class Either:
    """A session of either kind behind one set of names: what is awaited in the one is called in the other."""

    def __init__(self, session: Session | AsyncSession) -> None:
        self.session = session

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self.session, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Enter and leave `session.begin_nested()`."""
        if isinstance(self.session, AsyncSession):
            async with self.session.begin_nested():
                yield
        else:
            with self.session.begin_nested():
                yield

    async def insert(self, row: Any) -> Any:
        """Send the INSERT of a new object."""
        self.session.add(row)
        await self.flush()
        return row

    async def connection_id(self) -> int:
        """Tell which of the driver's connections the session works on."""

        def look(session: Session) -> int:
            return id(session.connection().connection.dbapi_connection)

        if isinstance(self.session, AsyncSession):
            return await self.session.run_sync(look)
        return look(self.session)


class Form:
    """One of the four forms: registers handlers on a router of its own."""

    def __init__(self, db: Database, kind: Kind, route: Route) -> None:
        self.db = db
        self.kind = kind
        self.route = route
        self.router = ROUTERS[route](prefix=f"/{kind}/{route}")
        self.session = db.session if kind == "sync" else db.async_session
        self.type = Session if kind == "sync" else AsyncSession
        self.Session = Annotated[self.type, Depends(self.session)]

    def add(self, method: str, path: str, **options: Any) -> Callable[[Any], Any]:
        """Register a handler as an endpoint of this form."""

        def register(handler: Any) -> Any:
            self.router.add_api_route(path, self.function(handler), methods=[method], **options)
            return handler

        return register

    def get(self, path: str, **options: Any) -> Callable[[Any], Any]:
        return self.add("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Any], Any]:
        return self.add("POST", path, **options)

    def function(
        self, handler: Callable[..., Coroutine[Any, Any, Any]], *, kind: Kind | None = None
    ) -> Callable[..., Any]:
        """Make an endpoint or a dependency of a handler: a `def` or an `async def` with its parameters.

        `kind` is another kind than the form's own, for what takes no session itself.
        """
        if (kind or self.kind) == "async":

            async def call(**values: Any) -> Any:
                return await handler(**_with_either(values))

        else:

            def call(**values: Any) -> Any:
                return _drive(handler(**_with_either(values)))

        call.__name__ = call.__qualname__ = handler.__name__
        call.__signature__ = inspect.signature(handler)
        call.__dict__.update(handler.__dict__)  # what decorators noted
        return call

    def generator(self, handler: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
        """Make a dependency with an exit of an async generator: a generator of this form's kind."""
        manager = asynccontextmanager(handler)

        async def of_tasks(**values: Any) -> AsyncIterator[Any]:
            async with manager(**_with_either(values)) as value:
                yield value

        def of_threads(**values: Any) -> Iterator[Any]:
            with _Driven(manager(**_with_either(values))) as value:
                yield value

        call = of_tasks if self.kind == "async" else of_threads
        call.__name__ = call.__qualname__ = handler.__name__
        call.__signature__ = inspect.signature(handler)
        return call

    async def wait(self, event: threading.Event) -> None:
        """Wait where this form may: a `def` endpoint blocks its thread."""
        if self.kind == "async":
            await asyncio.to_thread(event.wait, PATIENCE)
        else:
            event.wait(PATIENCE)
        assert event.is_set(), "nobody opened the gate"


def forms(db: Database) -> list[Form]:
    """Make the four forms for a database."""
    return [Form(db, kind, route) for kind in KINDS for route in ROUTES]


class _Driven(AbstractContextManager[Any]):
    """An async context manager that never waits, entered and left in a thread."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager

    def __enter__(self) -> Any:
        return _drive(self._manager.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return _drive(self._manager.__aexit__(kind, error, trace))


def _with_either(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Either(value) if isinstance(value, Session | AsyncSession) else value for name, value in values.items()
    }


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits: over a sync session every `await` returns at once."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a handler over a sync session waited for something")
