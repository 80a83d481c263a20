"""No error shows a value of a row or a parameter, whoever put it into the message: server, driver or SQLAlchemy."""

import enum
import traceback
from collections.abc import Callable

import pytest
from sqlalchemy import CheckConstraint, Enum, ForeignKey, String, insert, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import EVERY_DRIVER, Kind, opened, work
from fastapi_database import Database

SECRET = "s3cr3t-7f"
# The same in other clothes: what a message that prints it with repr() shows, and the beginning of a long text.
FORMS = [SECRET, f"{SECRET}'\n\"\\é", SECRET * 40]


class Colour(enum.Enum):
    RED = "red"


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    __table_args__ = (CheckConstraint("length(name) < 60 OR name LIKE '%no%'"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    age: Mapped[int | None]
    colour: Mapped[Colour | None] = mapped_column(Enum(Colour, validate_strings=True))
    host_id: Mapped[int | None] = mapped_column(ForeignKey("guests.id"))


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return opened(request, Base)


def twice(session: Session, secret: str) -> None:
    session.add_all([Guest(name=secret[:40]), Guest(name=secret[:40])])
    session.flush()


def wrong_type(session: Session, secret: str) -> None:
    session.execute(insert(Guest).values(name="x", age=secret))
    session.execute(text("SELECT json_extract(:secret, '$.a')"), {"secret": secret})  # SQLite takes any age


def wrong_enum(session: Session, secret: str) -> None:
    session.execute(insert(Guest).values(name="x", colour=secret))


def wrong_row(session: Session, secret: str) -> None:
    session.execute(insert(Guest).values(id=1, name=secret[:40]))
    session.execute(update(Guest).values(host_id=4711, name=secret[:39]))


def too_long(session: Session, secret: str) -> None:
    session.execute(insert(Guest).values(name=secret * 10))
    raise AssertionError("stored")


def no_table(session: Session, secret: str) -> None:
    session.execute(text("SELECT * FROM nowhere WHERE name = :secret"), {"secret": secret})


def quoted(session: Session, secret: str) -> None:
    """The server quotes the value outside of the classes of errors that are about values."""
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    query = "SELECT json_extract('{}', :secret)" if on_sqlite else "SELECT set_config(:secret, 'x', true)"
    session.execute(text(query), {"secret": secret})


def not_a_value(session: Session, secret: str) -> None:
    session.execute(insert(Guest), [{"name": "a", "age": 1}, {"name": "b", "age": {"key": secret}}])


@pytest.mark.parametrize("secret", FORMS, ids=["plain", "escaped", "long"])
@pytest.mark.parametrize("fail", [twice, wrong_type, wrong_enum, wrong_row, too_long, no_table, quoted, not_a_value])
def test_an_error_shows_no_value(
    case: tuple[Kind, Database], fail: Callable[[Session, str], None], secret: str
) -> None:
    kind, db = case
    with pytest.raises(SQLAlchemyError) as caught:
        work(db, kind, lambda session: fail(session, secret))
    frames = "".join(traceback.format_exception(caught.value))
    assert SECRET not in str(caught.value)
    assert SECRET not in frames
    assert type(caught.value).__name__ in frames


def test_what_the_error_is_about_stays_readable(case: tuple[Kind, Database]) -> None:
    kind, db = case
    with pytest.raises(SQLAlchemyError, match=r"(?is)unique.*guests"):
        work(db, kind, lambda session: twice(session, SECRET))
    with pytest.raises(SQLAlchemyError, match="nowhere"):
        work(db, kind, lambda session: no_table(session, SECRET))


def test_with_hide_parameters_off_everything_is_shown(sqlite_url: str) -> None:
    db = Database(sqlite_url, models=Base, hide_parameters=False)
    db.create_all()
    with pytest.raises(SQLAlchemyError, match=SECRET):
        work(db, "sync", lambda session: no_table(session, SECRET))
    db.close()
