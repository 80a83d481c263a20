"""`DatabaseRoute` answers byte for byte what FastAPI's own `APIRoute` answers."""

import asyncio
import json
from typing import Annotated, Any

import fastapi.routing
import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.a_asgi import Reply, ask, running
from apps.a_variants import RAN, VARIANTS
from apps.a_variants_app import Application, build
from fastapi_database import Database, DatabaseRoute

SESSIONS = ["no session", "sync session", "async session"]
KINDS = ["def", "async def"]
KEPT: list[Application] = []
"""FastAPI remembers where an endpoint stands by its id (seen in 0.163 and later): none may be used twice."""


@pytest.fixture(autouse=True)
def no_endpoint_of_before() -> None:
    """Have FastAPI forget the endpoints of other tests, whose ids may be used again."""
    getattr(fastapi.routing, "_endpoint_context_cache", {}).clear()


def test_there_are_enough_variants() -> None:
    assert len({one.name for one in VARIANTS}) >= 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("session", SESSIONS)
def test_every_route_answers_the_same_bytes(session: str, kind: str) -> None:
    """Status, headers in their order, body, the error that is raised on, and the order of exits and tasks.

    Each variant without a session, and below a dependency that used one: the route class takes another way then.
    """
    theirs = asyncio.run(converse(APIRoute, session, kind))
    ours = asyncio.run(converse(DatabaseRoute, session, kind))
    assert theirs.keys() == ours.keys()
    different = {key: (theirs[key], ours[key]) for key in theirs if theirs[key] != ours[key]}
    assert not different, "\n".join(f"{key}:\n  {a}\n  {b}" for key, (a, b) in different.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("session", SESSIONS)
def test_the_openapi_schema_is_the_same(session: str, kind: str) -> None:
    theirs, ours = (made(cls, session, kind)[0].app.openapi() for cls in (APIRoute, DatabaseRoute))
    assert json.dumps(ours, indent=1) == json.dumps(theirs, indent=1)


async def converse(route_class: type[APIRoute], session: str, kind: str) -> dict[str, Any]:
    """Ask for everything, in order, and note what came."""
    application, db = made(route_class, session, kind)
    seen: dict[str, Any] = {}
    RAN.clear()
    async with running(application.app):
        for number, (name, path, one) in enumerate(application.asks):
            reply = await ask(
                application.app, one.method, path, json=one.json, content=one.content, headers=one.headers
            )
            seen[f"{number} {name}: {one.method} {path}"] = (*reply.comparable, message(reply), list(RAN))
            RAN.clear()
    if db is not None:
        await db.aclose()
    return seen


def message(reply: Reply) -> str:
    return "" if reply.error is None else str(reply.error)


def made(route_class: type[APIRoute], session: str, kind: str) -> tuple[Application, Database | None]:
    """Build the application; FastAPI's is left alone where no session is in play."""
    db = None if (session, route_class) == ("no session", APIRoute) else Database("sqlite://")

    def install(app: FastAPI) -> None:
        if db is not None:
            db.install(app)

    application = build(
        route_class,
        as_coroutines=kind == "async def",
        dependencies=[] if db is None or session == "no session" else [Depends(user_of(db, session))],
        install=install,
    )
    KEPT.append(application)
    return application, db


def user_of(db: Database, session: str) -> Any:
    """Make a dependency that uses a session."""

    def use(session: Annotated[Session, Depends(db.session)]) -> None:
        session.execute(select(1))

    async def use_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None:
        await session.execute(select(1))

    return use if session == "sync session" else use_async
