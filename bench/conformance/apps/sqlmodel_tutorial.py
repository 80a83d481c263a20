"""FastAPI's tutorial with SQLModel, as it stands today: the session in a `with`, the endpoints commit.

FastAPI 0.165, "SQL (Relational) Databases", sections "Create a Session Dependency" and "Create a Hero"; "WebSockets",
section "Using Depends and others", for the socket.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from sqlalchemy import text
from sqlmodel import Field, Relationship, Session, SQLModel, create_engine

from bench.conformance.apps.model import POOL_OPTIONS, sync_url
from bench.conformance.apps.sync_endpoints import add_endpoints


class Item(SQLModel, table=True):
    """See model.py, for all of them."""

    __tablename__ = "items"
    id: int | None = Field(default=None, primary_key=True)
    name: str


class Deferred(SQLModel, table=True):
    """Its foreign key is checked at COMMIT only."""

    __tablename__ = "deferred"
    id: int | None = Field(default=None, primary_key=True)
    item_id: int


class SlowCommit(SQLModel, table=True):
    """Makes COMMIT last."""

    __tablename__ = "slow_commits"
    id: int | None = Field(default=None, primary_key=True)
    name: str


class Label(SQLModel, table=True):
    """Its name is unique."""

    __tablename__ = "labels"
    id: int | None = Field(default=None, primary_key=True)
    name: str


class Strict(SQLModel, table=True):
    """One column for every kind of constraint."""

    __tablename__ = "strict"
    id: int | None = Field(default=None, primary_key=True)
    label_id: int | None = None
    name: str | None = None
    amount: int


class Author(SQLModel, table=True):
    """Has books."""

    __tablename__ = "authors"
    id: int | None = Field(default=None, primary_key=True)
    name: str
    books: list["Book"] = Relationship()


class Book(SQLModel, table=True):
    """Belongs to an author."""

    __tablename__ = "books"
    id: int | None = Field(default=None, primary_key=True)
    title: str
    author_id: int = Field(foreign_key="authors.id")


class Models:
    """What the endpoints take in place of model.py."""

    Item, Deferred, SlowCommit, Label = Item, Deferred, SlowCommit, Label
    Strict, Author, Book = Strict, Author, Book


engine = create_engine(sync_url(), **POOL_OPTIONS)
app = FastAPI()


def get_session() -> Iterator[Session]:
    """The tutorial's dependency."""
    with Session(engine) as session:
        yield session


@contextmanager
def own() -> Iterator[Session]:
    """The same outside a request."""
    with Session(engine) as session:
        yield session
        session.commit()


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""
    with Session(engine) as session:
        session.execute(text("SELECT 1"))


add_endpoints(app, session=get_session, save=Session.commit, own=own, models=Models, socket_session=True)
