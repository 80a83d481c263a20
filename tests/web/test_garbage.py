"""What a request leaves behind is freed when it ends, not when the garbage collector comes by."""

import asyncio
import gc
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.orm import Session

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router
from apps.notes import Note
from fastapi_database import Database

pytestmark = pytest.mark.anyio


def read(session: Session) -> None:
    session.scalars(select(Note)).all()


def write(session: Session) -> None:
    session.add(Note(text=str(uuid.uuid4())))


def refuse(session: Session) -> None:
    write(session)
    raise HTTPException(404)


def fail(session: Session) -> None:
    try:
        write(session)
        session.flush()
        raise ValueError(session)
    except ValueError as error:
        raise HTTPException(409) from error  # the one that has a traceback, as the errors of drivers have


def nothing(_: Session) -> None: ...


EXPECTED = {refuse: 404, fail: 409}


@contextmanager
def no_collector() -> Iterator[list[Any]]:
    """Keep the garbage collector away; what it would have had to do is in the list afterwards."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [one for one in gc.garbage if type(one).__module__.startswith(("fastapi_database", "sqlalchemy"))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("context_is_kept", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("action", [nothing, read, write, refuse, fail])
@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_session_is_freed_with_its_request(
    db: Database, kind: Kind, routes: str, action: Callable[[Session], None], context_is_kept: bool
) -> None:
    """Whatever lives on in the context of the request: uvloop keeps it with a connection that was opened there."""
    sessions: list[weakref.ref[Session]] = []
    kept: list[Context] = []

    def work(session: Session) -> None:
        sessions.append(weakref.ref(session))
        if context_is_kept:
            kept.append(copy_context())
        action(session)

    app, added = FastAPI(), router(routes)
    added.add_api_route("/", endpoint(db, kind, work), methods=["POST"])
    db.install(app)
    app.include_router(added)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post("/")  # what is built once
        with no_collector() as cycles:
            for _ in range(3):
                assert (await client.post("/")).status_code == EXPECTED.get(action, 200)
            deadline = time.monotonic() + 5
            while any(one() for one in sessions) and time.monotonic() < deadline:
                await asyncio.sleep(0.001)  # the thread is about to wait for other work
    assert [one() for one in sessions] == [None] * 4
    assert cycles == []
    await db.aclose()
