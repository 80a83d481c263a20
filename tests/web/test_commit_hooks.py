"""SQLAlchemy's own `after_commit` hooks: once COMMIT is acknowledged, nothing they raise changes what is told."""

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.orm import Session

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router, work
from apps.notes import Note, notes
from fastapi_database import Database


class HookError(Exception):
    pass


def fail(_session: Session) -> None:
    raise HookError("on purpose")


def post(db: Database, kind: Kind, routes: str, function: Callable[[Session], Any]) -> int:
    app, added = FastAPI(), router(routes)
    added.add_api_route("/", endpoint(db, kind, function), methods=["POST"], status_code=201)
    db.install(app)
    app.include_router(added)
    with TestClient(app, raise_server_exceptions=False) as client:
        return client.post("/").status_code


def add_with_hook(session: Session) -> None:
    event.listen(session, "after_commit", fail)
    session.add(Note(text="kept"))


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_raises_after_the_commit_is_logged_and_the_answer_stays(
    db: Database, kind: Kind, routes: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert post(db, kind, routes, add_with_hook) == 201
    assert notes(db) == ["kept"]
    (record,) = [one for one in caplog.records if one.name == "fastapi_database"]
    assert record.levelno == logging.ERROR
    assert '"POST /" is committed' in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], HookError)
    assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)


def test_a_hook_for_all_sessions_that_is_older_than_this_library_is_no_different() -> None:
    script = """
from sqlalchemy import event, text
from sqlalchemy.orm import Session
event.listen(Session, "after_commit", lambda session: 1 / 0)
from fastapi_database import Database
with Database("sqlite://").begin() as session:
    session.execute(text("CREATE TABLE notes (text TEXT)"))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "ZeroDivisionError" in ran.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_block_does_not_raise_what_a_hook_raised(db: Database, kind: Kind) -> None:
    work(db, kind, add_with_hook)
    assert notes(db) == ["kept"]
    assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_raises_while_a_savepoint_is_released_stores_nothing(db: Database, kind: Kind) -> None:
    def add_in_open_savepoint(session: Session) -> None:
        session.begin_nested()
        add_with_hook(session)

    assert post(db, kind, "DatabaseRoute", add_in_open_savepoint) == 500
    assert notes(db) == []
