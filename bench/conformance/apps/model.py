"""What all applications share: the tables as models, the bodies, and what the runner says in the environment.

The runner makes the tables (see schema.py), so that they are the same for everybody, deferred constraints included.
"""

import os

from pydantic import BaseModel, ConfigDict
from sqlalchemy import URL, ForeignKey, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

URL_VARIABLE = "CONFORMANCE_DATABASE_URL"
POOL_VARIABLE = "CONFORMANCE_POOL"
WAIT_VARIABLE = "CONFORMANCE_WAIT"
MISTAKE_VARIABLE = "CONFORMANCE_MISTAKE"

POOL = int(os.environ.get(POOL_VARIABLE, "5"))
"""Connections that the application may open: the same for all, set as each one's documentation shows."""

WAIT = float(os.environ.get(WAIT_VARIABLE, "5"))
"""Seconds a request waits for a connection: the same for all, because SQLAlchemy's 30 are a matter of taste."""

POOL_OPTIONS = {"pool_size": POOL, "max_overflow": 0, "pool_timeout": WAIT}
"""The two above in the words of SQLAlchemy's create_engine."""

MISTAKE = MISTAKE_VARIABLE in os.environ
"""Add the endpoint that asks for the wrong kind of session (B17)."""


class Base(DeclarativeBase):
    """The declarative base of every application but SQLModel's."""


class Item(Base):
    """What most endpoints write; `name` is the mark by which the checks count their rows."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Deferred(Base):
    """Its foreign key is checked at COMMIT only."""

    __tablename__ = "deferred"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int]


class SlowCommit(Base):
    """A row of it makes COMMIT last as long as schema.COMMIT_SECONDS says."""

    __tablename__ = "slow_commits"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Label(Base):
    """Its name is unique."""

    __tablename__ = "labels"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Strict(Base):
    """One column for every kind of constraint."""

    __tablename__ = "strict"
    id: Mapped[int] = mapped_column(primary_key=True)
    label_id: Mapped[int | None]
    name: Mapped[str | None]
    amount: Mapped[int]


class Author(Base):
    """Has books."""

    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(order_by="Book.id")


class Book(Base):
    """Belongs to an author."""

    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))


class ItemIn(BaseModel):
    """The body of POST /items and POST /labels."""

    name: str


class StrictIn(BaseModel):
    """The body of POST /strict: each of the columns may be wrong."""

    label_id: int | None = None
    name: str | None = "good"
    amount: int = 1


class BookOut(BaseModel):
    """A book in an answer."""

    model_config = ConfigDict(from_attributes=True)
    title: str


class AuthorOut(BaseModel):
    """An author with the books."""

    model_config = ConfigDict(from_attributes=True)
    name: str
    books: list[BookOut]


class Number(BaseModel):
    """What POST /invalid-answer does not answer."""

    number: int


class HandledError(Exception):
    """The applications have a handler for it that answers 200."""


def database_url() -> str:
    """Return the URL that the runner gave to this process, without a driver."""
    return os.environ[URL_VARIABLE]


def sync_url() -> URL:
    """Return the URL for `create_engine`: psycopg 3 on PostgreSQL, `sqlite3` on SQLite."""
    url = make_url(database_url())
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def async_url() -> URL:
    """Return the URL for `create_async_engine`: asyncpg on PostgreSQL, aiosqlite on SQLite."""
    url = make_url(database_url())
    return url.set(drivername="postgresql+asyncpg" if url.drivername == "postgresql" else "sqlite+aiosqlite")


def sleep_statement() -> str:
    """Return the SQL that works for about `:seconds`."""
    if database_url().startswith("postgresql"):
        return "SELECT pg_sleep(:seconds)"
    return (  # some 10 million steps a second
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < :seconds * 10000000)"
        " SELECT count(*) FROM c"
    )
