"""Which statements only read, told by their text."""

import pytest
from sqlalchemy import func, literal, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, joinedload, mapped_column, relationship, selectinload
from sqlalchemy.schema import ForeignKey

from fastapi_database.engines.reads import keeps_something, only_reads


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    boss: Mapped["User | None"] = relationship(remote_side="User.id")


OTHER = aliased(User)
READS = {
    "by primary key": select(User).where(User.id == 1),
    "a list": select(User.id, User.name).order_by(User.name.desc()).limit(20).offset(40),
    "in": select(User).where(User.id.in_([1, 2, 3])),
    "joined": select(User).options(joinedload(User.boss)).where(User.name.ilike("j%")),
    "loaded": select(User).options(selectinload(User.boss)),
    "counted": select(func.count()).select_from(User),
    "grouped": select(User.boss_id, func.max(User.name)).group_by(User.boss_id).having(func.count() > 1),
    "exists": select(select(User.id).where(User.name == "x").exists()),
    "union": select(User.id).union_all(select(OTHER.id)).order_by("id"),
    "cte": select(select(User.id).cte("c").c.id),
    "window": select(func.row_number().over(partition_by=User.boss_id, order_by=User.id)),
    "a literal": select(literal(1)),
    "cast": select(User.id.cast(postgresql.NUMERIC(10, 2))),
    "text": text("select id from users where name = :name"),
}
MAY_WRITE = {
    "for update": select(User).with_for_update(),
    "for share": select(User).with_for_update(read=True, key_share=True),
    "nextval": select(func.nextval("ids")),
    "now": select(func.now()),
    "current_timestamp": select(func.current_timestamp()),
    "a function of the application's": select(func.pay(1)),
    "one in a condition": select(User).where(func.audit(User.id)),
    "one of a schema": select(func.shop.count(User.id)),
    "a quoted one": text('SELECT "count"(id) FROM users'),
    "a name that is likely to be the application's": select(func.log("x")),
    "a name with a dollar": text("SELECT max, add$(1) FROM users"),
    "one whose schema stands apart": text("SELECT app . count(1)"),
    "one whose schema stands on its own line": text("SELECT app.\n max (1)"),
    "one with a letter that Python counts for none": text("SELECT zahle\N{EURO SIGN}(1)"),
    "one in two code points": text("SELECT compte\N{COMBINING ACUTE ACCENT}(1)"),
    "one in escapes": text("SELECT U&\"d!006Fdo\" UESCAPE '!' (1)"),
    "a constant that asks for the time": text("SELECT CAST('now' AS timestamptz)"),
    "set_config": select(func.set_config("app.tenant", "a", True)),
    "advisory lock": select(func.pg_advisory_xact_lock(1)),
    "update": update(User).values(name="x"),
    "a CTE that writes": text("WITH gone AS (DELETE FROM users RETURNING id) SELECT count(id) FROM gone"),
    "select into": text("SELECT id INTO copied FROM users"),
    "two statements": text("SELECT 1; DROP TABLE users"),
    "behind a comment": text("SELECT 1 --\n, pay(1)"),
    "explain": text("EXPLAIN ANALYZE SELECT 1"),
    "show": text("SHOW search_path"),
    "declare": text("DECLARE c CURSOR WITH HOLD FOR SELECT 1"),
    "nothing": text(""),
}


def sql(statement: object) -> str:
    dialect = postgresql.dialect(paramstyle="numeric_dollar")
    return str(statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", READS)
def test_a_statement_that_only_reads_is_known(name: str) -> None:
    assert only_reads(sql(READS[name]))


@pytest.mark.parametrize("name", MAY_WRITE)
def test_a_statement_that_may_write_lock_or_ask_for_its_transaction_does_not_pass(name: str) -> None:
    assert not only_reads(sql(MAY_WRITE[name]))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT set_config('a.b', 'c', true)",
        "SELECT \"set_config\"('a.b', 'c', true)",
        "SELECT pg_catalog.set_config /* why */ ('a.b', 'c', true)",
        "SELECT pg_export_snapshot()",
        "SELECT setseed(0.5)",
        "SELECT pg_try_advisory_lock(1)",
    ],
)
def test_what_a_select_keeps_is_known_however_it_is_written(statement: str) -> None:
    assert keeps_something(statement)
    assert not keeps_something("SELECT set_configs FROM pages")


def test_long_texts_are_told_as_soon_as_short_ones() -> None:
    """A pattern that can match a letter in two ways takes for ever: twice as long with each further letter."""
    for letter in ("a", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{HANGUL SYLLABLE GA}", "\N{EURO SIGN}"):
        assert only_reads(f"SELECT id FROM users WHERE name = '{letter * 20_000}'")
    assert not keeps_something(f"SELECT set_config {'/* why */' * 1_000} FROM pages")
