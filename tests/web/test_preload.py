"""What a response reads is loaded together, whatever the ORM's classes and the annotations are made of."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
import sqlmodel
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, create_model
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column, relationship

from apps.c_cases import KINDS, Kind, endpoint, recorded
from fastapi_database import Database
from fastapi_database.web.preload import REMEMBERED, preload

SHELVES, BOOKS = 3, 5


class Base(MappedAsDataclass, DeclarativeBase): ...


class Shelf(Base):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list["Book"]] = relationship(default_factory=list)


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelves.id"))
    notes: Mapped[list["Note"]] = relationship(default_factory=list)


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"))


class SQLModelShelf(sqlmodel.SQLModel, table=True):
    __tablename__ = "sqlmodel_shelves"
    id: int = sqlmodel.Field(primary_key=True)
    books: list["SQLModelBook"] = sqlmodel.Relationship()


class SQLModelBook(sqlmodel.SQLModel, table=True):
    __tablename__ = "sqlmodel_books"
    id: int = sqlmodel.Field(primary_key=True)
    shelf_id: int = sqlmodel.Field(foreign_key="sqlmodel_shelves.id")
    notes: list["SQLModelNote"] = sqlmodel.Relationship()


class SQLModelNote(sqlmodel.SQLModel, table=True):
    __tablename__ = "sqlmodel_notes"
    id: int = sqlmodel.Field(primary_key=True)
    book_id: int = sqlmodel.Field(foreign_key="sqlmodel_books.id")


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int


class BookOut(Out):
    notes: list[Out]


class ShelfOut(Out):
    books: list[BookOut]


class Page(BaseModel):
    items: list[ShelfOut]


@pytest.fixture
def db() -> Iterator[Database]:
    database = Database("sqlite://", models=[Base, sqlmodel.SQLModel])
    database.create_all()
    yield database
    database.close()


def get(db: Database, kind: Kind, function: Callable[[Session], Any], response_model: Any) -> Any:
    app = FastAPI()
    db.install(app)
    app.get("/", response_model=response_model)(endpoint(db, kind, function))
    with TestClient(app) as client:
        answer = client.get("/")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["one", "list", "page"])
@pytest.mark.parametrize("models", [(Shelf, Book, Note), (SQLModelShelf, SQLModelBook, SQLModelNote)])
def test_objects_that_are_dataclasses_or_models_load_one_statement_per_relationship(
    db: Database, models: tuple[Any, Any, Any], form: str, kind: Kind
) -> None:
    shelf, book, note = models
    with db.begin() as session:
        session.add_all(shelf(id=one, books=[]) for one in range(SHELVES))
        session.flush()
        session.add_all(book(id=one, shelf_id=one % SHELVES, notes=[]) for one in range(SHELVES * BOOKS))
        session.flush()
        session.add_all(note(id=one, book_id=one) for one in range(SHELVES * BOOKS))

    def read(session: Session) -> Any:
        rows = list(session.scalars(select(shelf).order_by(shelf.id)))
        return {"one": rows[0], "list": rows, "page": {"items": rows}}[form]

    response_model = {"one": ShelfOut, "list": list[ShelfOut], "page": Page}[form]
    with recorded() as statements:
        body = get(db, kind, read, response_model)
    shelves = {"one": lambda: [body], "list": lambda: body, "page": lambda: body["items"]}[form]()
    assert [len(one["books"]) for one in shelves] == [BOOKS] * len(shelves)
    assert all(len(one["notes"]) == 1 for shelf in shelves for one in shelf["books"])
    assert len(statements) == 3, statements


class Found(BaseModel):
    by_name: dict[str, Annotated[ShelfOut, {"an": "unhashable"}]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["one", "list", "field"])
def test_annotations_that_can_not_be_hashed_are_answered_like_any_other(db: Database, form: str, kind: Kind) -> None:
    annotated: Any = Annotated[ShelfOut, {"an": "unhashable"}]
    response_model = {"one": annotated, "list": list[annotated], "field": Found}[form]
    with db.begin() as session:
        session.add_all([Shelf(id=1), Shelf(id=2)])
        session.flush()
        session.add_all([Book(id=1, shelf_id=1), Book(id=2, shelf_id=2)])

    def read(session: Session) -> Any:
        rows = list(session.scalars(select(Shelf).order_by(Shelf.id)))
        return {"one": rows[0], "list": rows, "field": {"by_name": {str(one.id): one for one in rows}}}[form]

    with recorded() as statements:
        body = get(db, kind, read, response_model)
    first = {"id": 1, "books": [{"id": 1, "notes": []}]}
    second = {"id": 2, "books": [{"id": 2, "notes": []}]}
    expected = {"one": first, "list": [first, second], "field": {"by_name": {"1": first, "2": second}}}
    assert body == expected[form]
    assert len(statements) == 3, statements


def test_response_models_made_as_the_application_runs_are_not_kept_for_ever() -> None:
    def made() -> weakref.ref[Any]:
        model = create_model("Made", id=(int, ...))
        preload({"id": 1}, model)
        preload(Shelf(id=1), model)
        return weakref.ref(model)

    first = made()
    kept = [made() for _ in range(REMEMBERED)]
    gc.collect()
    assert first() is None
    assert len(kept) == REMEMBERED
