"""The tables. Plain SQLAlchemy: nothing here knows FastAPI or fastapi-database."""

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAME_LENGTH = 80


class Base(DeclarativeBase):
    """What `Database(models=Base)` makes tables of."""


class User(Base):
    """A guest of the café."""

    __tablename__ = "users"
    # SQLite would give the id of the last deleted user to the next one: a link to John would then show Jane.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  SQLAlchemy's own way to write it

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    token_hash: Mapped[str | None] = mapped_column(String(64), unique=True)  # None: cannot authenticate
