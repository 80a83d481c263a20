"""What all applications share: the table, the models of the API, and the URL of the database."""

import os

from pydantic import BaseModel
from sqlalchemy import URL, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

LISTED = 20  # rows that GET /users answers
URL_VARIABLE = "BENCH_DATABASE_URL"


class Base(DeclarativeBase):
    """The declarative base of every application."""


class User(Base):
    """The one table."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]


class UserIn(BaseModel):
    """The body of POST /users."""

    name: str
    email: str | None = None


class UserOut(BaseModel):
    """What every endpoint answers."""

    id: int
    name: str
    email: str | None


def database_url() -> str:
    """Return the URL that the benchmark gave to this process, without a driver."""
    return os.environ[URL_VARIABLE]


def sync_url() -> URL:
    """Return the URL for `create_engine`: psycopg 3 on PostgreSQL, `sqlite3` on SQLite."""
    url = make_url(database_url())
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def async_url() -> URL:
    """Return the URL for `create_async_engine`: asyncpg on PostgreSQL, aiosqlite on SQLite."""
    url = make_url(database_url())
    driver = "postgresql+asyncpg" if url.drivername == "postgresql" else "sqlite+aiosqlite"
    return url.set(drivername=driver)
