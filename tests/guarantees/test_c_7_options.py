"""C7: every option of SQLAlchemy's engine and session passes through by its own name."""

import inspect
import sqlite3
import typing
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import sqlalchemy
from sqlalchemy import JSON, CreateEnginePlugin, insert, make_url, select, text
from sqlalchemy.dialects import plugins
from sqlalchemy.exc import DBAPIError, InvalidRequestError, OperationalError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Query, Session, mapped_column
from sqlalchemy.pool import NullPool, QueuePool

from apps.c_cases import EVERY_DRIVER, KINDS, Kind, recorded, url_for, work
from fastapi_database import Database
from fastapi_database.config import ENGINE_OPTIONS, SESSION_OPTIONS
from fastapi_database.errors import ConflictingSettings, UnknownSetting

# What SQLAlchemy has, and we do not pass through by its own name, with the reason.
OURS_INSTEAD = {
    "pool_size": "part of max_connections",
    "max_overflow": "part of max_connections",
    "pool_timeout": "queue_timeout",
}
REFUSED = {
    "future": "always on since SQLAlchemy 2.0",
    "bind": "the engine is made from the URL",
    "binds": "one Database is one database",
    "twophase": "one Database is one database",
    "close_resets_only": "an ended unit refuses to work by itself",
}
GONE = {"convert_unicode", "implicit_returning", "autocommit"}  # parameters that SQLAlchemy only raises or warns for
SAME_NAME = {"execution_options"}  # of the session since 2.1: the engine's are meant


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(JSON, nullable=True)


class Plugin(CreateEnginePlugin):
    engines: ClassVar[list[Any]] = []

    def update_url(self, url: Any) -> Any:
        return url

    def engine_created(self, engine: Any) -> None:
        self.engines.append(engine)


class OurQuery(Query[Any]):
    pass


def test_c7_no_option_of_create_engine_is_unknown_to_us() -> None:
    """Fails when SQLAlchemy has a new option: add it to config.ENGINE_OPTIONS and to OPTIONS below."""
    known = {name for overload in typing.get_overloads(sqlalchemy.create_engine) for name in parameters_of(overload)}
    assert known - {"url", "kwargs"} - ENGINE_OPTIONS - GONE == OURS_INSTEAD.keys() | {"future"}
    # The overloads lag behind the documentation.
    assert {":param " + name + ":" in sqlalchemy.create_engine.__doc__ for name in ENGINE_OPTIONS - known} <= {True}  # type: ignore[operator]
    assert set(parameters_of(create_async_engine)) == {"url", "kw"}


def test_c7_no_option_of_the_session_is_unknown_to_us() -> None:
    known = set(parameters_of(Session.__init__)) - {"self"}
    assert known - SESSION_OPTIONS - GONE - SAME_NAME == REFUSED.keys() - set()
    assert known >= SESSION_OPTIONS
    own = set(parameters_of(AsyncSession.__init__)) - {"self", "kw"}
    assert own == {"bind", "binds", "sync_session_class"}


@pytest.mark.parametrize("name", REFUSED)
def test_c7_an_option_that_would_break_a_promise_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConflictingSettings, match=f"{name}.*: .{{10}}"):
        Database("sqlite://", **{name: object()})


@pytest.mark.parametrize("name", sorted(GONE - {"implicit_returning"}))
def test_c7_an_option_that_sqlalchemy_removed_is_refused(name: str) -> None:
    with pytest.raises(UnknownSetting, match=name):
        Database("sqlite://", **{name: True})


def engine_of(session: Session) -> Any:
    return session.get_bind()


def pragma(name: str) -> Callable[[Session], Any]:
    return lambda session: session.scalar(text(f"PRAGMA {name}"))


def pages(session: Session) -> int:
    with recorded() as statements:
        session.scalars(insert(Thing).returning(Thing.id), [{} for _ in range(6)]).all()
    return len(statements)


def cartesian(session: Session) -> int:
    other = Thing.__table__.alias()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.execute(select(Thing.id, other.c.id)).all()
    return sum(issubclass(one.category, SAWarning) for one in caught)


def named(session: Session) -> bool:
    with recorded() as statements:
        session.get(Thing, 7)
    return ":" in statements[0]


def message(session: Session) -> bool:
    with pytest.raises(OperationalError) as caught:
        session.execute(text("SELECT * FROM no_such_table WHERE name = :name"), {"name": "s3cr3t-7f"})
    session.rollback()
    return "s3cr3t-7f" in str(caught.value)


def stored(session: Session) -> Any:
    session.add(Thing(id=1, data={"a": 1}))
    session.flush()
    return session.scalar(text("SELECT data FROM things"))


def loaded(session: Session) -> Any:
    session.execute(text("INSERT INTO things VALUES (1, '{}')"))
    return session.scalars(select(Thing.data)).one()


def flushed(session: Session) -> int:
    session.add(Thing())
    return len(session.scalars(select(Thing)).all())


def begins(session: Session) -> bool:
    try:
        session.execute(select(1))
    except InvalidRequestError:
        return False
    return True


class Creator:
    """Opens connections in the application's stead."""

    def __init__(self) -> None:
        self.file = ""
        self.calls = 0

    def __call__(self) -> sqlite3.Connection:
        self.calls += 1
        return sqlite3.connect(self.file, check_same_thread=False)


# For each option: a value, a function of a session, and what that gives by default and with the option.
OPTIONS: dict[str, tuple[Any, Callable[[Session], Any], Any, Any]] = {
    "connect_args": ({"timeout": 1.5}, pragma("busy_timeout"), 5000, 1500),
    "enable_from_linting": (False, cartesian, 1, 0),
    "execution_options": (
        {"logging_token": "cafe"},
        lambda session: session.connection().get_execution_options().get("logging_token"),
        None,
        "cafe",
    ),
    "hide_parameters": (False, message, False, True),
    "insertmanyvalues_page_size": (2, pages, 1, 3),
    "isolation_level": ("READ UNCOMMITTED", pragma("read_uncommitted"), 0, 1),
    "json_deserializer": (lambda _: "mine", loaded, {}, "mine"),
    "json_serializer": (lambda _: '"mine"', stored, '{"a": 1}', '"mine"'),
    "label_length": (20, lambda session: engine_of(session).dialect.label_length, None, 20),
    "logging_name": ("cafe", lambda session: engine_of(session).logging_name, None, "cafe"),
    "max_identifier_length": (99, lambda session: engine_of(session).dialect.max_identifier_length, 9999, 99),
    "paramstyle": ("named", named, False, True),
    "pool_logging_name": ("pool", lambda session: engine_of(session).pool.logging_name, None, "pool"),
    "pool_pre_ping": (True, lambda session: engine_of(session).pool._pre_ping, False, True),
    "pool_recycle": (60, lambda session: engine_of(session).pool._recycle, -1, 60),
    "pool_reset_on_return": (
        "commit",
        lambda session: engine_of(session).pool._reset_on_return.name,
        "reset_rollback",
        "reset_commit",
    ),
    "pool_use_lifo": (False, lambda session: engine_of(session).pool._pool.use_lifo, True, False),
    "poolclass": (NullPool, lambda session: isinstance(engine_of(session).pool, NullPool), False, True),
    "query_cache_size": (0, lambda session: engine_of(session)._compiled_cache is None, False, True),
    "skip_autocommit_rollback": (
        True,
        lambda session: engine_of(session).dialect.skip_autocommit_rollback,
        False,
        True,
    ),
    "use_insertmanyvalues": (
        False,
        lambda session: engine_of(session).dialect.use_insertmanyvalues,
        True,
        False,
    ),
    "autobegin": (False, begins, True, False),
    "autoflush": (False, flushed, 1, 0),
    "enable_baked_queries": (False, lambda session: session.enable_baked_queries, True, False),
    "expire_on_commit": (True, lambda session: session.expire_on_commit, False, True),
    "info": ({"tenant": 7}, lambda session: session.info.get("tenant"), None, 7),
    "join_transaction_mode": (
        "create_savepoint",
        lambda session: session.join_transaction_mode,
        "conditional_savepoint",
        "create_savepoint",
    ),
    "query_cls": (OurQuery, lambda session: type(session.query(Thing)), Query, OurQuery),
}
TESTED_BELOW = {"creator", "echo", "echo_pool", "module", "plugins", "pool"}


def test_c7_every_option_is_tested_here() -> None:
    assert OPTIONS.keys() | TESTED_BELOW == ENGINE_OPTIONS | SESSION_OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_c7_an_option_has_its_effect(sqlite_url: str, kind: Kind, name: str) -> None:
    value, look, by_default, with_it = OPTIONS[name]
    for options, expected in (({}, by_default), ({name: value}, with_it)):
        plain = Database(sqlite_url, models=Base)
        plain.create_all()
        work(plain, "sync", lambda session: session.execute(Thing.__table__.delete()))
        plain.close()
        db = Database(sqlite_url, **options)
        assert work(db, kind, look) == expected, options
        db.close()


@pytest.mark.parametrize("kind", KINDS)
def test_c7_echo_shows_the_sql_with_its_parameters_and_errors_stay_without(
    sqlite_url: str, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(sqlite_url, echo=True)
    query = text("SELECT :name AS greeting")
    work(db, kind, lambda session: session.execute(query, {"name": "s3cr3t-7f"}))
    lines = [record.getMessage() for record in caplog.records if record.name == "sqlalchemy.engine.Engine"]
    assert "SELECT ? AS greeting" in lines
    assert "COMMIT" in lines
    assert any("s3cr3t-7f" in line for line in lines)
    with pytest.raises(DBAPIError) as raised:
        work(db, kind, lambda session: session.execute(text("SELECT :name FROM nowhere"), {"name": "s3cr3t-7f"}))
    assert "s3cr3t-7f" not in str(raised.value)
    assert "parameters hidden" in str(raised.value)
    db.close()
    caplog.clear()
    db = Database(sqlite_url, echo=True, hide_parameters=True)
    work(db, kind, lambda session: session.execute(query, {"name": "s3cr3t-7f"}))
    assert "SELECT ? AS greeting" in caplog.text
    assert "s3cr3t-7f" not in caplog.text
    db.close()
    caplog.clear()
    db = Database(sqlite_url)
    work(db, kind, lambda session: session.execute(query, {"name": "s3cr3t-7f"}))
    assert "SELECT" not in caplog.text
    db.close()


def test_c7_echo_pool_shows_the_connections(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    db = Database(sqlite_url, echo_pool="debug", pool_logging_name="cafe")
    work(db, "sync", lambda session: session.execute(text("SELECT 1")))
    assert "checked out from pool" in caplog.text
    assert "sqlalchemy.pool.impl.QueuePool.cafe" in {record.name for record in caplog.records}
    db.close()


def test_c7_a_creator_a_module_and_a_pool_of_the_application_are_used(sqlite_url: str) -> None:
    creator = Creator()
    creator.file = str(make_url(sqlite_url).database)
    pool = QueuePool(creator, pool_size=2, max_overflow=0)
    for number, options in enumerate(({"creator": creator}, {"pool": pool}), 1):
        db = Database(sqlite_url, models=Base, **options)
        db.create_all()
        work(db, "sync", lambda session: session.add(Thing()))
        assert len(work(db, "sync", lambda session: session.scalars(select(Thing)).all())) == number
        assert creator.calls == number
        db.close()
    db = Database(sqlite_url, module=sqlite3)
    assert db.engine.dialect.dbapi is sqlite3
    db.close()


@pytest.mark.parametrize("kind", KINDS)
def test_c7_a_plugin_of_create_engine_sees_the_engine(
    sqlite_url: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.register("cafe", __name__, "Plugin")
    monkeypatch.setitem(plugins.impls, "cafe", lambda: Plugin)
    monkeypatch.setattr(Plugin, "engines", [])
    db = Database(sqlite_url, plugins=["cafe"])
    work(db, kind, lambda session: session.execute(text("SELECT 1")))
    assert len(Plugin.engines) == 1
    db.close()


@pytest.mark.parametrize(("kind", "driver"), [case for case in EVERY_DRIVER if case[1] != "sqlite"])
def test_c7_the_options_that_people_set_work_on_postgresql(
    request: pytest.FixtureRequest, kind: Kind, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = url_for(request, driver)
    db = Database(
        url,
        models=Base,
        isolation_level="SERIALIZABLE",
        json_serializer=lambda _: '{"mine": 1}',
        pool_pre_ping=True,
        pool_recycle=60,
        echo=True,
        client_encoding="utf8",  # an option of psycopg's dialect alone
    )
    db.create_all()
    show = text("SHOW transaction_isolation")
    for _ in range(2):  # the second time on the pooled connection, after a ping
        assert work(db, kind, lambda session: session.scalar(show)) == "serializable"
    work(db, kind, lambda session: session.add(Thing(id=1, data={"a": 2})))
    assert work(db, kind, lambda session: session.scalars(select(Thing.data)).one()) == {"mine": 1}
    assert "SHOW transaction_isolation" in caplog.text
    db.close()


@pytest.mark.parametrize(("kind", "driver"), EVERY_DRIVER)
def test_c7_without_a_pool_each_unit_opens_and_closes_its_connection(
    request: pytest.FixtureRequest, kind: Kind, driver: str
) -> None:
    db = Database(url_for(request, driver), poolclass=NullPool, max_connections=2)
    for _ in range(5):
        assert work(db, kind, lambda session: session.scalar(text("SELECT 1"))) == 1
        assert (db.stats().open, db.stats().idle, db.stats().in_use) == (0, 0, 0)
    db.close()


def test_c7_pool_sizes_of_an_existing_call_become_the_limit(sqlite_url: str) -> None:
    for options, limit in (
        ({"pool_size": 3, "max_overflow": 4}, 7),
        ({"pool_size": 3}, 13),
        ({"max_overflow": 0}, 5),
        ({"pool_size": 2, "max_overflow": 0, "pool_timeout": 1}, 2),
        ({"max_connections": 4}, 4),
        ({}, 10),
    ):
        assert f"in_use=0/{limit} " in repr(Database(sqlite_url, **options)), options


def test_c7_options_of_the_dialect_are_known_too(sqlite_url: str, postgresql_url: str) -> None:
    Database(sqlite_url, native_datetime=True)
    Database(postgresql_url, use_native_hstore=False)
    with pytest.raises(UnknownSetting, match="native_datetime"):
        Database(postgresql_url, native_datetime=True)


def parameters_of(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)
