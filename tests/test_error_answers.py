"""What the errors of drivers and of SQLAlchemy are answered with, by their codes."""

import importlib.util
import logging
import re
import sqlite3
from pathlib import Path

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import exc, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from apps.c_cases import EVERY_DRIVER, ROUTERS, Kind, endpoint, router, url_for
from docs.error_table import codes
from fastapi_database import Database, errors
from fastapi_database.errors import problem_for

PAGES = Path(__file__).parents[1] / "docs" / "errors"


CLIENT_ANSWERS = [
    # what PostgreSQL and SQLite say, and what a client is told
    ("23505", 2067, 409, "unique-violation"),
    ("23505", 1555, 409, "unique-violation"),
    ("23503", 787, 409, "foreign-key-violation"),
    ("23P01", None, 409, "exclusion-violation"),
    ("23502", 1299, 422, "not-null-violation"),
    ("23514", 275, 422, "check-violation"),
    ("22001", 18, 422, "value-too-long"),
    ("22P02", 20, 422, "invalid-value"),
    ("22003", 3091, 422, "invalid-value"),
    ("40001", None, 503, "serialization-failure"),
    ("40P01", None, 503, "deadlock"),
    ("55P03", 5, 503, "lock-timeout"),
    ("55P03", 517, 503, "lock-timeout"),
    ("57014", 9, 504, "statement-timeout"),
    ("25006", 8, 503, "read-only"),
    ("57P01", None, 503, "connection-lost"),
    ("08006", None, 503, "connection-lost"),
    ("53300", 13, 503, "out-of-resources"),
    ("53100", 10, 503, "out-of-resources"),
    ("25P02", None, 500, "transaction-aborted"),
    ("42P01", None, 500, "schema-mismatch"),
    ("42703", None, 500, "schema-mismatch"),
    ("3F000", None, 500, "schema-mismatch"),
    (None, 14, 503, "unreachable"),
    ("XX000", 2, 500, "database-error"),
]


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_every_code_has_a_page() -> None:
    answered = {code for *_, code in CLIENT_ANSWERS}
    assert (codes() | answered) - {page.stem for page in PAGES.glob("*.md")} == set()


@pytest.mark.parametrize(("sqlstate", "sqlite_code", "status", "code"), CLIENT_ANSWERS)
def test_what_the_driver_says_decides_the_answer(
    sqlstate: str | None, sqlite_code: int | None, status: int, code: str
) -> None:
    """By SQLSTATE or result code: the text of the message is of another case each time."""
    for name, value in (("sqlstate", sqlstate), ("sqlite_errorcode", sqlite_code)):
        if value is None:
            continue
        cause = sqlite3.OperationalError("UNIQUE constraint failed: a.b; deadlock; timeout; value too long")
        setattr(cause, name, value)
        problem = problem_for(exc.DBAPIError("SELECT 1", {}, cause))
        assert (problem.status, problem.code) == (status, code), name
        assert (problem.retry_after is not None) == (status == 503)
        assert problem.type == f"urn:fastapi-database:{code}"


def test_every_code_of_the_table_is_tested() -> None:
    for table, column in ((errors.SQLSTATE, 0), (errors.SQLITE_CODE, 1)):
        answered = {case[3] for case in CLIENT_ANSWERS if case[column] is not None}
        assert {problem.code for problem in table.values()} <= answered


def test_errors_of_sqlalchemy_itself_have_an_answer() -> None:
    assert problem_for(exc.TimeoutError()).code == "queue-timeout"
    assert problem_for(exc.PendingRollbackError()).code == "transaction-aborted"
    assert problem_for(exc.PendingRollbackError(code="8s2b")).code == "connection-lost"
    assert problem_for(exc.InvalidRequestError()).code == "database-error"
    assert problem_for(LookupError()).code == "database-error"
    lost = exc.DBAPIError("SELECT 1", {}, psycopg.OperationalError(), connection_invalidated=True)
    assert problem_for(lost).code == "connection-lost"


@pytest.mark.parametrize("missing", ["table", "column"])
@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("case", EVERY_DRIVER, ids="-".join)
def test_a_missing_table_or_column_is_answered_500_and_named_in_the_log(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, case: tuple[Kind, str], name: str, missing: str
) -> None:
    kind, driver = case
    db = Database(url_for(request, driver))
    if missing == "column":
        with db.begin() as session:
            session.execute(text("CREATE TABLE guests (other INTEGER)"))
    app, routes = FastAPI(), router(name)
    db.install(app)
    routes.add_api_route("/", endpoint(db, kind, lambda session: session.scalars(select(Guest)).all()))
    app.include_router(routes)
    with TestClient(app) as client:
        answered = client.get("/")
    assert (answered.status_code, answered.json()["code"]) == (500, "schema-mismatch")
    assert answered.headers["content-type"] == "application/problem+json"
    assert "guests" not in answered.text
    (record,) = [one for one in caplog.records if one.name == "fastapi_database"]
    assert record.levelno == logging.ERROR
    assert "GET / answered 500" in record.getMessage()
    assert re.search(r"no such (table|column): guests|guests.* does not exist", caplog.text)
    assert "run your migrations; in a demo or a test call db.create_all()" in caplog.text
    assert db.stats().in_use == 0


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_missing_driver_is_answered_500_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: Kind, name: str
) -> None:
    find = importlib.util.find_spec
    hidden = {"psycopg", "asyncpg"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))
    db, app, routes = Database("postgresql://host/app"), FastAPI(), router(name)
    db.install(app)
    routes.add_api_route("/", endpoint(db, kind, lambda session: session.execute(text("SELECT 1")).scalar()))
    app.include_router(routes)
    with TestClient(app) as client:
        answered = client.get("/")
    assert (answered.status_code, answered.json()["code"]) == (500, "driver-not-installed")
    assert "pip install" not in answered.text
    assert "pip install 'fastapi-database[postgresql]'" in caplog.text
