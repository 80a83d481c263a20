"""The tables of the applications that show the guarantees A."""

from sqlalchemy import DDL, CheckConstraint, ForeignKey, String, UniqueConstraint, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

LONGEST = 8


class Base(DeclarativeBase): ...


class Thing(Base):
    """A row that is there or not."""

    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)
    number: Mapped[int | None]


class Parent(Base):
    __tablename__ = "parents"
    id: Mapped[int] = mapped_column(primary_key=True)


class Child(Base):
    """What is wrong with a child shows only at COMMIT: no parent, or (PostgreSQL) a seat that is taken."""

    __tablename__ = "children"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(60))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("parents.id", deferrable=True, initially="DEFERRED"))
    seat: Mapped[int | None]
    # SQLite knows deferred foreign keys, and no other deferred constraint.
    __table_args__ = (UniqueConstraint("seat", deferrable=True, initially="DEFERRED").ddl_if(dialect="postgresql"),)


class Account(Base):
    """A row with one constraint of every kind; what it misses, the database says at once."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    nick: Mapped[str | None] = mapped_column(String(40), unique=True)
    email: Mapped[str | None] = mapped_column(String(60), unique=True, index=True)
    street: Mapped[str | None] = mapped_column(String(40))
    city: Mapped[str | None] = mapped_column(String(40))
    floor: Mapped[int | None]
    door: Mapped[int | None]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("parents.id"))
    guardian_id: Mapped[int | None] = mapped_column(ForeignKey("parents.id", name="has_guardian"))
    required: Mapped[str] = mapped_column(String(40))
    age: Mapped[int | None]
    code: Mapped[str | None] = mapped_column(String(LONGEST))
    __table_args__ = (
        UniqueConstraint("street", "city"),
        UniqueConstraint("floor", "door", name="one_door"),
        CheckConstraint("age >= 0", name="age_counts_up"),
        # SQLite does not look at the length a column was declared with.
        CheckConstraint(f"length(code) <= {LONGEST}", name="code_fits").ddl_if(dialect="sqlite"),
    )


# A child called "…!23514" fails at COMMIT with that SQLSTATE and a message that says something else.
event.listen(
    Child.__table__,
    "after_create",
    DDL("""
    CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = split_part(NEW.name, '!', 2), MESSAGE = 'no such text in any table';
    END $$;
    CREATE CONSTRAINT TRIGGER fail_at_commit AFTER INSERT ON children DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.name LIKE '%%!%%') EXECUTE FUNCTION fail_at_commit()
    """).execute_if(dialect="postgresql"),
)
event.listen(
    Account.__table__,
    "after_create",
    DDL("""
    CREATE TRIGGER talks_nonsense BEFORE INSERT ON accounts WHEN NEW.nick = 'nonsense'
    BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed: accounts.nick'); END
    """).execute_if(dialect="sqlite"),
)
