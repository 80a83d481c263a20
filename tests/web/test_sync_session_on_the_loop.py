"""A sync session that reaches the event loop, given on by a `def` dependency, is refused whatever is asked of it."""

import threading
from collections.abc import Iterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from apps.c_cases import ROUTERS, router
from fastapi_database import Database

USES = ["execute", "commit", "rollback", "close", "reset"]


@pytest.fixture
def db() -> Iterator[Database]:
    database = Database("sqlite://")
    yield database
    assert database.stats().in_use == 0
    database.close()


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("use", USES)
def test_a_used_sync_session_does_nothing_on_the_event_loop(db: Database, use: str, routes: str) -> None:
    app, added, rolled_back_in, loop_in = FastAPI(), router(routes), list[int](), list[int]()
    event.listen(db.engine, "rollback", lambda _connection: rolled_back_in.append(threading.get_ident()))

    def used(session: Annotated[Session, Depends(db.session)]) -> Session:
        session.execute(text("SELECT 1"))
        return session

    async def misuse(session: Annotated[Session, Depends(used)]) -> None:
        loop_in.append(threading.get_ident())
        getattr(session, use)(*([text("SELECT 1")] if use == "execute" else []))

    @added.get("/", dependencies=[Depends(misuse)])
    def nothing() -> None: ...

    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.json()["code"]) == (500, "wrong-session")
    assert rolled_back_in
    assert loop_in[0] not in rolled_back_in


@pytest.mark.parametrize("routes", ROUTERS)
def test_closing_an_unused_one_does_no_harm(db: Database, routes: str) -> None:
    app, added = FastAPI(), router(routes)

    async def close(session: Annotated[Session, Depends(db.session)]) -> None:
        session.close()

    @added.get("/", dependencies=[Depends(close)])
    def nothing() -> None: ...

    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        assert client.get("/").status_code == 200
