"""The combinations that tests of engines run in: kind of session and driver and router."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import fastapi
import pytest
from fastapi import Depends
from fastapi.routing import APIRoute
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastapi_database import APIRouter, Database

T = TypeVar("T")
Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")
ROUTERS = ("DatabaseRoute", "plain router")
SYNC_DRIVERS = ("sqlite", "postgresql+psycopg")
ASYNC_DRIVERS = ("sqlite", "postgresql+psycopg", "postgresql+asyncpg")
EVERY_DRIVER = [("sync", driver) for driver in SYNC_DRIVERS] + [("async", driver) for driver in ASYNC_DRIVERS]


def url_for(request: pytest.FixtureRequest, driver: str) -> str:
    """Give the URL of an empty database that names `driver`."""
    backend = driver.partition("+")[0]
    return request.getfixturevalue(f"{backend}_url").replace(f"{backend}:", f"{driver}:", 1)


def opened(request: pytest.FixtureRequest, models: object, **options: Any) -> tuple[Kind, Database]:
    """Make the tables in an empty database, for a fixture with `params=EVERY_DRIVER, ids="-".join`."""
    kind, driver = request.param
    db = Database(url_for(request, driver), models=models, **options)
    db.create_all()
    request.addfinalizer(db.close)
    return kind, db


def router(kind: str) -> fastapi.APIRouter:
    """Make a router of one of `ROUTERS`."""
    return APIRouter() if kind == "DatabaseRoute" else fastapi.APIRouter(route_class=APIRoute)


def work(db: Database, kind: Kind, function: Callable[[Session], T]) -> T:
    """Run a function in a unit of work of its own: `with db.begin()` or `async with db.begin()`."""
    if kind == "sync":
        with db.begin() as session:
            return function(session)

    async def unit() -> T:
        async with db.begin() as session:
            return await session.run_sync(function)

    return asyncio.run(unit())


def endpoint(db: Database, kind: Kind, function: Callable[[Session], T]) -> Callable[..., Any]:
    """Make an endpoint that gives what `function` gives for the request's session."""

    def sync_endpoint(session: Annotated[Session, Depends(db.session)]) -> Any:
        return function(session)

    async def async_endpoint(session: Annotated[AsyncSession, Depends(db.async_session)]) -> Any:
        return await session.run_sync(function)

    return sync_endpoint if kind == "sync" else async_endpoint


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the statements that every engine of this process sends; BEGIN and the like are none."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    with listening(Engine, "before_cursor_execute", note):
        yield statements


@contextmanager
def listening(target: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Listen to an event of SQLAlchemy for as long as the block lasts."""
    event.listen(target, name, function)
    try:
        yield
    finally:
        event.remove(target, name, function)
