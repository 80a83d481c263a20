"""One table with one text in a row: enough to see what was stored."""

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastapi_database import Database


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


def notes(database: Database) -> list[str]:
    """Read the texts, on a connection that no unit of work has."""
    with database.engine.connect() as connection:
        return list(connection.scalars(select(Note.text).order_by(Note.id)))
