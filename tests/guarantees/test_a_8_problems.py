"""A8: what the database refuses is answered with the status it means, and the field it is about."""

import asyncio

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from apps.a_app import PARENT
from apps.a_asgi import ask, running
from apps.a_commits import children
from apps.a_forms import forms
from apps.a_model import LONGEST, Base
from apps.a_rules import accounts
from apps.a_serving import Backend, Cell
from apps.a_sessions import swallowing
from fastapi_database import Database
from fastapi_database.errors import FastAPIDatabaseError
from support.clients import Answer, burst, statuses

pytest_plugins = ["apps.a_fixtures"]

MANY = 50
NOBODY = 999_999
TWICE = {
    "nick": (["nick"], lambda name: {"nick": name[-30:]}),
    "email": (["email"], lambda name: {"email": name}),
    "street-city": (["street", "city"], lambda name: {"street": name[-30:], "city": "Berlin"}),
    "floor-door": (["floor", "door"], lambda name: {"floor": abs(hash(name)) % 2**31, "door": 1}),
    "id": (["id"], lambda name: {"id": abs(hash(name)) % 2**31}),
}
"""Unique together: by default name, as an index, as a table constraint, by a name of its own, as primary key."""

REFUSED = {
    "foreign key": ({"parent_id": NOBODY}, 409, "foreign-key-violation", ["parent_id"]),
    "named foreign key": ({"guardian_id": NOBODY}, 409, "foreign-key-violation", ["guardian_id"]),
    "not null": ({"required": None}, 422, "not-null-violation", ["required"]),
    "check": ({"age": -1}, 422, "check-violation", None),
    "too long": ({"code": "x" * (LONGEST + 1)}, 422, None, None),
}


@pytest.mark.parametrize("what", TWICE)
def test_a8_of_50_who_want_the_same_one_gets_it_and_49_are_told_the_field(cell: Cell, what: str) -> None:
    fields, values = TWICE[what]
    row = values(cell.name())
    answers = burst(cell.url("/accounts"), MANY, concurrency=MANY, method="POST", json=row)
    assert statuses(answers) == {201: 1, 409: MANY - 1}
    for answer in answers:
        if answer.status == 409:
            is_problem(answer, 409, "unique-violation", fields)


def test_a8_other_violations_have_their_own_status(cell: Cell) -> None:
    for what, (values, status, code, fields) in REFUSED.items():
        # SQLite says "FOREIGN KEY constraint failed", and not which.
        named = None if cell.on_sqlite and code == "foreign-key-violation" else fields
        is_problem(cell.post("/accounts", values), status, code, named, what)
    assert cell.post("/accounts", {"code": "x" * LONGEST, "age": 0, "parent_id": PARENT}).status == 201


def test_a8_violations_that_show_only_at_commit_have_the_same_status(cell: Cell) -> None:
    """The INSERT is sent by the commit; and constraints that the database checks at COMMIT."""
    for what, (values, status, code, _) in REFUSED.items():
        is_problem(cell.post("/accounts/at-commit", values), status, code, None, what)
    nick = {"nick": cell.name()[-30:]}
    assert cell.post("/accounts/at-commit", nick).status == 201
    is_problem(cell.post("/accounts/at-commit", nick), 409, "unique-violation", ["nick"])
    orphan = cell.post("/children", {"name": "orphan", "parent_id": NOBODY})
    is_problem(orphan, 409, "foreign-key-violation", None if cell.on_sqlite else ["parent_id"])


def test_a8_what_postgresql_refuses_at_commit_is_mapped_by_its_sqlstate(postgresql_cell: Cell) -> None:
    cell = postgresql_cell
    expected = {"23505": 409, "23503": 409, "23P01": 409, "23502": 422, "23514": 422, "22001": 422, "40001": 503}
    for state, status in expected.items():
        answer = cell.post("/children", {"name": f"fails!{state}"})
        is_problem(answer, status, None, None, state)
    assert cell.backend.count("fails!", "children") == 0
    seat = {"name": "seat", "seat": abs(hash(cell.name())) % 2**31}
    assert cell.post("/children", seat).status == 201
    is_problem(cell.post("/children", seat), 409, "unique-violation", ["seat"])


def test_a8_the_text_of_a_message_decides_nothing_on_postgresql(postgresql_cell: Cell) -> None:
    cell = postgresql_cell
    lie = 'duplicate key value violates unique constraint "things_name_key"'
    assert cell.post("/accounts/raise/P0001", message=lie).status == 500
    for state, status in {"23505": 409, "23514": 422, "22001": 422, "55P03": 503, "57014": 504}.items():
        is_problem(cell.post(f"/accounts/raise/{state}", message="hello"), status, None, None, state)


def test_a8_the_text_of_a_message_decides_no_status_on_sqlite(cell: Cell) -> None:
    """A trigger that speaks like a unique constraint is not one."""
    if cell.on_sqlite:
        answer = cell.post("/accounts", {"nick": "nonsense"})
        assert answer.status != 409
        assert answer.json()["code"] != "unique-violation"


@pytest.mark.parametrize("when", ["constructor", "before", "after"])
@pytest.mark.parametrize(
    ("handled", "kind"),
    [(IntegrityError, "def"), (IntegrityError, "async def"), (DBAPIError, "def"), (SQLAlchemyError, "async def")],
)
def test_a8_a_handler_of_the_application_wins(backend: Backend, when: str, handled: type[Exception], kind: str) -> None:
    """Also for what shows only at COMMIT, and whichever of `install` and the handler comes first."""

    async def talk() -> None:
        app = application(backend, handled, when, teapot if kind == "def" else async_teapot)
        async with running(app):
            for prefix in backend.prefixes:
                refused = await ask(app, "POST", f"{prefix}/accounts", json={"required": None})
                assert (refused.status, refused.json()) == (418, {"teapot": "IntegrityError"}), prefix
                at_commit = await ask(app, "POST", f"{prefix}/children", json={"name": "x", "parent_id": NOBODY})
                assert (at_commit.status, at_commit.json()) == (418, {"teapot": "IntegrityError"}), prefix
                assert (refused.error, at_commit.error) == (None, None)

    asyncio.run(talk())
    assert backend.count("x", "children") == 0


@pytest.mark.parametrize("when", ["constructor", "before", "after"])
def test_a8_a_handler_of_the_application_wins_for_our_own_errors(backend: Backend, when: str) -> None:
    async def talk() -> None:
        app = application(backend, FastAPIDatabaseError, when, async_teapot)
        async with running(app):
            for prefix in backend.prefixes:
                path = f"{prefix}/swallow/refused-by-sqlalchemy?name=a8"
                aborted = await ask(app, "POST", path)
                assert (aborted.status, aborted.json()) == (418, {"teapot": "TransactionAborted"}), prefix

    asyncio.run(talk())


def application(backend: Backend, handled: type[Exception], when: str, handler: object) -> FastAPI:
    db = Database(backend.url, models=Base)
    db.create_all()
    db.close()
    app = FastAPI(exception_handlers={handled: handler} if when == "constructor" else None)
    if when == "before":
        app.add_exception_handler(handled, handler)
    db.install(app)
    if when == "after":
        app.add_exception_handler(handled, handler)
    app.state.ran = []
    for form in forms(db):
        for register in (accounts, children, swallowing):
            register(form)
        app.include_router(form.router)
    return app


def teapot(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"teapot": type(error).__name__}, 418)


async def async_teapot(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"teapot": type(error).__name__}, 418)


def is_problem(answer: Answer, status: int, code: str | None, fields: list[str] | None, what: str = "") -> None:
    """Check a problem document (RFC 9457): its type, its status, our code, and the fields where they are known."""
    assert answer.status == status, (what, answer)
    assert answer.headers["content-type"] == "application/problem+json", what
    document = answer.json()
    assert document["status"] == status, what
    assert {"type", "title", "code"} <= document.keys(), what
    if code is not None:
        assert document["code"] == code, what
    if fields is not None:
        assert document.get("fields") == fields, what
