"""The columns and constraints a problem document names, whatever value the client sent."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import CheckConstraint, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import EVERY_DRIVER, Kind, endpoint, opened
from fastapi_database import Database

WORDS = [
    "name",
    "guests",
    "guests.name",
    "UNIQUE",
    "constraint",
    "failed",
    "CHECK",
    "grown_up",
    "NULL",
    "guests_name_key",
]


class Base(DeclarativeBase): ...


class Guest(Base):
    __tablename__ = "guests"
    __table_args__ = (CheckConstraint("age >= 18", name="grown_up"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    age: Mapped[int] = mapped_column(default=18)
    note: Mapped[str] = mapped_column(default="")


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return opened(request, Base)


@pytest.fixture
def post(case: tuple[Kind, Database]) -> Iterator[Callable[..., Any]]:
    kind, db = case
    app, given = FastAPI(), dict[str, Any]()
    db.install(app)

    def add(session: Session) -> None:
        session.execute(insert(Guest).values(**given))

    app.post("/", status_code=201)(endpoint(db, kind, add))
    with TestClient(app) as client:

        def ask(**values: Any) -> Any:
            given.clear()
            given.update(values)
            return client.post("/").json()

        yield ask


def test_no_value_hides_the_name_of_a_column(post: Callable[..., Any]) -> None:
    for word in WORDS:
        assert post(name=word) is None
        answer = post(name=word)
        assert (answer["code"], answer["fields"]) == ("unique-violation", ["name"]), word
        answer = post(name=None, note=word)
        assert (answer["code"], answer["fields"]) == ("not-null-violation", ["name"]), word


def test_no_value_hides_the_name_of_a_constraint(post: Callable[..., Any]) -> None:
    for word in WORDS:
        answer = post(name=word, age=3)
        assert (answer["code"], answer["constraint"]) == ("check-violation", "grown_up"), word
