"""An application whose statements fail with a secret in their parameters, at default settings."""

import datetime
import enum
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import (
    JSON,
    CheckConstraint,
    ForeignKey,
    Numeric,
    String,
    UniqueConstraint,
    cast,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy import Integer as SQLInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from apps.a_forms import Either, Form, forms
from fastapi_database import Database

SECRET = "s3cr3t-7f"
logger = logging.getLogger("application")


class Base(DeclarativeBase): ...


class Colour(enum.Enum):
    RED = "red"


class Key(Base):
    __tablename__ = "keys"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)


class Row(Base):
    """One column of every kind that a text does not fit into."""

    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20), unique=True)
    number: Mapped[int | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    weight: Mapped[float | None]
    flag: Mapped[bool | None]
    day: Mapped[datetime.date | None]
    moment: Mapped[datetime.datetime | None]
    span: Mapped[datetime.timedelta | None]
    uid: Mapped[uuid.UUID | None]
    blob: Mapped[bytes | None]
    colour: Mapped[Colour | None]
    document: Mapped[Any | None] = mapped_column(JSON)
    required: Mapped[str] = mapped_column(default="yes")
    age: Mapped[int | None]
    key: Mapped[str | None] = mapped_column(ForeignKey("keys.name"))
    late_key: Mapped[str | None] = mapped_column(ForeignKey("keys.name", deferrable=True, initially="DEFERRED"))
    late_name: Mapped[str | None]
    __table_args__ = (
        CheckConstraint("age >= 0"),
        UniqueConstraint("late_name", deferrable=True, initially="DEFERRED").ddl_if(dialect="postgresql"),
    )


class Unspeakable:
    """A value that no driver knows and that speaks when it is shown."""

    def __repr__(self) -> str:
        return SECRET


Cases = Mapping[str, Sequence[tuple[Any, Any]]]
WRONG_TYPE = ("number", "price", "weight", "flag", "day", "moment", "span", "uid", "blob", "colour")
CASES: Cases = {
    "unique": [(insert(Row), {"name": SECRET}), (insert(Row), {"name": SECRET})],
    "unique-many": [(insert(Row), [{"name": SECRET}, {"name": SECRET}])],
    "unique-text": [(text("INSERT INTO rows (name, required) VALUES (:name, '')"), {"name": SECRET})] * 2,
    "check": [(insert(Row), {"name": SECRET, "age": -1})],
    "not-null": [(text("INSERT INTO rows (name) VALUES (:name)"), {"name": SECRET})],
    "foreign-key": [(insert(Row), {"key": SECRET})],
    "too-long": [(insert(Row), {"name": SECRET * 10})],
    "missing-parameter": [(text("SELECT :a, :b"), {"a": SECRET})],
    "unknown-table": [(text("SELECT :a FROM nothing"), {"a": SECRET})],
    "unknown-column": [(text("SELECT nothing FROM rows WHERE name = :a"), {"a": SECRET})],
    "syntax": [(text("SELEKT :a"), {"a": SECRET})],
    "json": [(insert(Row), {"document": {SECRET: object()}})],
    "unspeakable": [(text("SELECT :a"), {"a": Unspeakable()})],
    "nested": [(text("SELECT :a"), {"a": [{"deep": {SECRET}}]})],
    "update": [(insert(Row), {"name": SECRET}), (update(Row).values(age=-1).where(Row.name == SECRET), {})],
    "late-foreign-key": [(insert(Row), {"late_key": SECRET})],
    **{f"wrong-{column}": [(insert(Row), {column: SECRET})] for column in WRONG_TYPE},
}
POSTGRESQL_CASES: Cases = {
    "cast": [(select(cast(literal(SECRET), SQLInteger)), {})],
    "cast-text": [(text("SELECT CAST(CAST(:a AS text) AS integer)"), {"a": SECRET})],
    "cast-date": [(text("SELECT CAST(CAST(:a AS text) AS date)"), {"a": SECRET})],
    "cast-json": [(text("SELECT CAST(CAST(:a AS text) AS json)"), {"a": f'{{"a": {SECRET}}}'})],
    "regclass": [(text("SELECT CAST(CAST(:a AS text) AS regclass)"), {"a": SECRET})],
    "tsquery": [(text("SELECT to_tsquery(CAST(:a AS text))"), {"a": f"{SECRET} &"})],
    "setting": [(text("SELECT set_config('work_mem', CAST(:a AS text), true)"), {"a": SECRET})],
    "raised": [(text("SELECT quoting(CAST(:a AS text))"), {"a": SECRET})],
    "raised-with-detail": [(text("SELECT quoting_everywhere(CAST(:a AS text))"), {"a": SECRET})],
    "array": [(text("SELECT CAST(CAST(:a AS text[]) AS integer[])"), {"a": ["1", SECRET]})],
    "late-unique": [(insert(Row), [{"late_name": SECRET}, {"late_name": SECRET}])],
}
FUNCTIONS = (
    """CREATE OR REPLACE FUNCTION quoting(value text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'this is no good: %', value; END $$""",
    """CREATE OR REPLACE FUNCTION quoting_everywhere(value text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no good' USING DETAIL = value, HINT = value; END $$""",
)


def create() -> FastAPI:
    """Build the application on DATABASE_URL, with its tables."""
    db = Database(models=Base)
    db.create_all()
    on_postgresql = os.environ["DATABASE_URL"].startswith("postgresql")
    if on_postgresql:
        with db.begin() as session:
            for function in FUNCTIONS:
                session.execute(text(function))
    db.close()
    return _application(db, {**CASES, **(POSTGRESQL_CASES if on_postgresql else {})})


def create_many() -> FastAPI:
    """Mount an application for each of the URLS, a JSON list, under /0, /1, …; none can be reached."""
    app = FastAPI()
    for number, url in enumerate(json.loads(os.environ["URLS"])):
        app.mount(f"/{number}", _application(Database(url, models=Base), CASES))
    return app


def _application(db: Database, cases: Cases) -> FastAPI:
    app = FastAPI()
    db.install(app)
    app.include_router(db.health())

    @app.get("/cases")
    def names() -> list[str]:
        return list(cases)

    for form in forms(db):
        _register(form, cases)
        app.include_router(form.router)
    return app


def _register(form: Form, cases: Cases) -> None:
    async def run(session: Either, case: str) -> None:
        logger.warning("case %s", case)
        for statement, parameters in cases[case]:
            await session.execute(statement, parameters)

    @form.post("/let-through/{case}")
    async def let_through(case: str, session: form.Session) -> None:
        await run(session, case)

    @form.post("/swallow/{case}")
    async def swallow(case: str, session: form.Session) -> None:
        try:
            await run(session, case)
        except Exception:
            logger.exception("swallowed")

    @form.post("/wrap/{case}")
    async def wrap(case: str, session: form.Session) -> None:
        try:
            await run(session, case)
        except Exception as error:
            raise RuntimeError("the application failed") from error

    @form.post("/refuse/{case}")
    async def refuse(case: str, session: form.Session) -> None:
        try:
            await run(session, case)
        except Exception as error:
            logger.warning("refused: %s; %r", error, error, exc_info=True)
            raise HTTPException(400, str(error)) from error

    work = _worker(form, cases)

    @form.post("/in-background/{case}")
    async def in_background(case: str, tasks: BackgroundTasks) -> None:
        tasks.add_task(work, case)

    @form.get("/in-stream/{case}")
    async def in_stream(case: str) -> StreamingResponse:
        if form.kind == "sync":

            def lines() -> Any:
                yield "first"
                work(case)

            return StreamingResponse(lines())

        async def async_lines() -> Any:
            yield "first"
            await work(case)

        return StreamingResponse(async_lines())


def _worker(form: Form, cases: Cases) -> Callable[[str], Any]:
    """Make a function that runs a case in a unit of its own, where nobody handles what it raises."""

    def work(case: str) -> None:
        logger.warning("case %s", case)
        with form.db.begin() as session:
            for statement, parameters in cases[case]:
                session.execute(statement, parameters)

    async def async_work(case: str) -> None:
        logger.warning("case %s", case)
        async with form.db.begin() as session:
            for statement, parameters in cases[case]:
                await session.execute(statement, parameters)

    return work if form.kind == "sync" else async_work
