"""C7: hooks, criteria and events of SQLAlchemy reach every session and engine, in their order."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, select
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from apps.c_accounts import Account, AccountOut, accounts
from apps.c_cases import EVERY_DRIVER, ROUTERS, Kind, endpoint, listening, router, work
from fastapi_database import Database


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return accounts(request)


@pytest.mark.parametrize("name", ROUTERS)
def test_c7_session_hooks_and_criteria_reach_every_session(case: tuple[Kind, Database], name: str) -> None:
    kind, db = case
    app, routes = FastAPI(), router(name)
    db.install(app)
    everyone = select(Account).order_by(Account.id)
    routes.add_api_route(
        "/", endpoint(db, kind, lambda session: session.scalars(everyone).all()), response_model=list[AccountOut]
    )
    app.include_router(routes)

    def not_the_first(state: ORMExecuteState) -> None:
        if state.is_select:
            state.statement = state.statement.options(with_loader_criteria(Account, Account.id > 1))

    criteria = everyone.options(with_loader_criteria(Account, lambda cls: cls.id < 3, include_aliases=True))
    assert len(work(db, kind, lambda session: session.scalars(criteria).all())) == 2
    with listening(Session, "do_orm_execute", not_the_first):
        with TestClient(app) as client:
            assert [row["owner"] for row in client.get("/").json()] == ["o2", "o3"]
        assert len(work(db, kind, lambda session: session.scalars(everyone).all())) == 2


def test_c7_session_events_fire_in_their_order(case: tuple[Kind, Database]) -> None:
    kind, db = case
    seen: list[str] = []
    names = ("after_begin", "before_flush", "after_flush", "before_commit", "after_commit", "after_rollback")

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    def fail(session: Session) -> None:
        session.add(Account(owner="never"))
        session.flush()
        raise LookupError

    with ExitStack() as listeners:
        for name in names:
            listeners.enter_context(listening(Session, name, note(name)))
        work(db, kind, lambda session: session.add(Account(owner="new")))
        committed, seen[:] = list(seen), []
        with pytest.raises(LookupError):
            work(db, kind, fail)
    assert committed == ["before_commit", "before_flush", "after_begin", "after_flush", "after_commit"]
    assert seen == ["before_flush", "after_begin", "after_flush", "after_rollback"]


def test_c7_engine_events_fire_once_for_each_thing_that_happens(case: tuple[Kind, Database]) -> None:
    kind, db = case
    seen: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        def listen(*_: Any) -> None:
            seen[name] += 1

        return listen

    def attach(engine: Any) -> None:
        for name in ("before_cursor_execute", "begin", "commit", "rollback", "connect", "checkout", "checkin"):
            event.listen(engine, name, count(name))

    def read(session: Session) -> None:
        session.scalars(select(Account)).all()

    def fail(session: Session) -> None:
        read(session)
        raise LookupError

    if kind == "sync":
        db.close()  # a new engine has no connection yet
        attach(db.engine)
        work(db, kind, read)
        with pytest.raises(LookupError):
            work(db, kind, fail)
    else:

        async def units() -> None:
            attach(db.async_engine.sync_engine)
            async with db.begin() as session:
                await session.run_sync(read)
            with pytest.raises(LookupError):
                async with db.begin() as session:
                    await session.run_sync(fail)

        asyncio.run(units())
    assert seen == {
        "connect": 1,
        "checkout": 2,
        "checkin": 2,
        "begin": 2,
        "before_cursor_execute": 2,
        "commit": 1,
        "rollback": 1,
    }
