"""Settings, the environment, models and drivers: what is wrong is one clear error, before anything runs."""

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pydantic
import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declarative_base, mapped_column, registry

from apps.c_cases import EVERY_DRIVER, Kind, url_for, work
from fastapi_database import Database
from fastapi_database.config import ENVIRONMENT
from fastapi_database.errors import (
    ConflictingSettings,
    FastAPIDatabaseError,
    InvalidModels,
    InvalidURL,
    UnknownSetting,
)

MISSPELT = {
    "max_conections": "max_connections",
    "maxconnections": "max_connections",
    "queue_timout": "queue_timeout",
    "queue_targt": "queue_target",
    "max_wating": "max_waiting",
    "statment_timeout": "statement_timeout",
    "lock_timout": "lock_timeout",
    "sqlite_on_eventloop": "sqlite_on_event_loop",
    "ecko": "echo",
    "autoflsh": "autoflush",
    "pool_pre_png": "pool_pre_ping",
    "expire_on_comit": "expire_on_commit",
    "conect_args": "connect_args",
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://localhost/app"])
@pytest.mark.parametrize("name", MISSPELT)
def test_an_unknown_setting_names_the_one_that_was_meant(url: str, name: str) -> None:
    with pytest.raises(UnknownSetting, match=f"'{name}'; did you mean '{MISSPELT[name]}'\\? Settings"):
        Database(url, **{name: 1})


def test_an_unknown_setting_like_no_other_is_named_without_a_guess() -> None:
    with pytest.raises(UnknownSetting, match=r"no setting 'zzz'\. Settings are those of"):
        Database("sqlite://", zzz=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_connections": 3, "pool_size": 3}, "max_connections=3 and pool_size and max_overflow"),
        ({"queue_timeout": 1, "pool_timeout": 2}, "queue_timeout=1 and pool_timeout"),
        ({"max_connections": 0}, "max_connections=0 must be a whole number of at least 1"),
        ({"max_connections": -1}, "max_connections=-1"),
        ({"max_connections": 2.5}, "max_connections=2.5"),
        ({"max_connections": "3"}, "max_connections='3'"),
        ({"max_connections": True}, "max_connections=True"),
        ({"max_waiting": -1}, "max_waiting=-1 must be a whole number of at least 0"),
        ({"hold_warning": -1}, "hold_warning=-1 must be a finite number of seconds"),
        ({"hold_warning": "soon"}, "hold_warning='soon'"),
        ({"transaction_pooler": "yes"}, "transaction_pooler='yes' must be True or False"),
        ({"transaction_pooler": True}, "sqlite://, which has no pooler between"),
        ({"queue_timeout": -0.5}, "queue_timeout=-0.5 must be a finite number of seconds"),
        ({"queue_timeout": float("inf")}, "queue_timeout=inf"),
        ({"queue_timeout": float("nan")}, "queue_timeout=nan"),
        ({"queue_timeout": "soon"}, "queue_timeout='soon'"),
        ({"sqlite_on_event_loop": 0}, "sqlite_on_event_loop=0 must be True or False"),
        ({"pool_timeout": "soon"}, "timeout='soon'"),
        ({"statement_timeout": -1}, "statement_timeout=-1 must be a number of seconds from 0 (no limit) to 2000000"),
        ({"statement_timeout": 3e9}, "statement_timeout=3000000000.0"),
        ({"lock_timeout": "soon"}, "lock_timeout='soon' must be a number of seconds"),
        ({"lock_timeout": float("nan")}, "lock_timeout=nan"),
        ({"queue_target": 0}, "queue_target=0 must be a number of seconds above 0; float('inf') switches it off"),
        ({"queue_target": float("nan")}, "queue_target=nan"),
        ({"queue_target": "soon"}, "queue_target='soon'"),
        ({"queue_target": True}, "queue_target=True"),
        ({"pool_size": "3"}, "pool_size='3'"),
        ({"pool_size": 0}, "pool_size=0"),
        ({"max_overflow": -1}, "max_overflow=-1"),
        ({"poolclass": "NullPool"}, "poolclass='NullPool'"),
        ({"connect_args": "timeout=5"}, "connect_args is a str"),
        ({"execution_options": 5}, "execution_options is a int"),
    ],
)
def test_a_setting_that_can_not_hold_is_named_with_its_value(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConflictingSettings) as caught:
        Database("sqlite://", **options)
    assert says in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://localhost/app"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"isolation_level": "AUTOCOMMIT"}, "isolation_level='AUTOCOMMIT' "),
        ({"isolation_level": "autocommit"}, "isolation_level='autocommit' "),
        ({"execution_options": {"isolation_level": "AUTOCOMMIT"}}, "execution_options' isolation_level='AUTOCOMMIT' "),
        ({"connect_args": {"autocommit": True}}, "connect_args' autocommit=True "),
    ],
)
def test_autocommit_is_refused_for_an_error_could_undo_nothing(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConflictingSettings, match=r"an error could not undo .*; leave it out") as caught:
        Database(url, **options)
    assert str(caught.value).startswith(says)


def test_autocommit_is_refused_in_a_url_too() -> None:
    with pytest.raises(ConflictingSettings, match=r"the URL's autocommit='true' .*; leave it out"):
        Database("postgresql://localhost/app?autocommit=true")


@pytest.mark.parametrize(("kind", "driver"), EVERY_DRIVER)
def test_a_statement_outside_of_transactions_has_a_connection_of_its_own_as_the_refusal_says(
    request: pytest.FixtureRequest, kind: Kind, driver: str
) -> None:
    db = Database(url_for(request, driver), max_connections=1)

    def vacuum(connection: Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM"))

    def fail(session: Session) -> None:
        session.execute(text("CREATE TABLE t (id INTEGER)"))
        raise InterruptedError

    async def in_async() -> None:
        async with db.async_engine.connect() as connection:
            await connection.run_sync(vacuum)
        with pytest.raises(InterruptedError):  # the same connection serves a unit of work as before
            async with db.begin() as session:
                await session.run_sync(fail)

    if kind == "async":
        asyncio.run(in_async())
    else:
        with db.engine.connect() as connection:
            vacuum(connection)
        with pytest.raises(InterruptedError):
            work(db, kind, fail)
    with pytest.raises(DBAPIError):
        work(db, kind, lambda session: session.execute(text("SELECT * FROM t")))
    db.close()


def test_settings_that_agree_may_both_be_given() -> None:
    db = Database("sqlite://", max_connections=5, pool_size=5, max_overflow=0, queue_timeout=2, pool_timeout=2)
    assert "in_use=0/5" in repr(db)


def test_the_url_and_friends_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:s3cr3t@localhost/app")
    monkeypatch.setenv("DATABASE_MAX_CONNECTIONS", "7")
    monkeypatch.setenv("DATABASE_QUEUE_TIMEOUT", "1.5")
    monkeypatch.setenv("DATABASE_MAX_WAITING", "3")
    monkeypatch.setenv("DATABASE_ECHO", "true")
    db = Database()
    assert repr(db).startswith("<Database postgresql://ann:***@localhost/app in_use=0/7 ")
    assert db.engine.echo
    assert db.engine.pool.timeout() == 1.5  # type: ignore[attr-defined]


def test_sqlite_stays_off_the_event_loop_when_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    assert Database()._resources.settings.sqlite_on_event_loop
    monkeypatch.setenv("DATABASE_SQLITE_ON_EVENT_LOOP", "off")
    assert not Database()._resources.settings.sqlite_on_event_loop
    assert Database(sqlite_on_event_loop=True)._resources.settings.sqlite_on_event_loop


def test_an_argument_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    monkeypatch.setenv("DATABASE_MAX_CONNECTIONS", "7")
    monkeypatch.setenv("DATABASE_ECHO", "1")
    db = Database(max_connections=2, echo=False)
    assert "in_use=0/2" in repr(db)
    assert not db.engine.echo
    db.close()


def test_with_a_url_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Database of the same process must not take the limits that were meant for the first."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/app")
    monkeypatch.setenv("DATABASE_MAX_CONNECTIONS", "x")
    assert repr(Database("sqlite://")) == "<Database sqlite:// in_use=0/10 waiting=0 open=0>"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_MAX_CONNECTIONS", "many"),
        ("DATABASE_MAX_CONNECTIONS", "0"),
        ("DATABASE_QUEUE_TIMEOUT", "soon"),
        ("DATABASE_QUEUE_TARGET", "-1"),
        ("DATABASE_MAX_WAITING", "1.5"),
        ("DATABASE_STATEMENT_TIMEOUT", "never"),
        ("DATABASE_LOCK_TIMEOUT", "-1"),
        ("DATABASE_SQLITE_ON_EVENT_LOOP", "perhaps"),
        ("DATABASE_ECHO", "perhaps"),
    ],
)
def test_a_variable_that_can_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConflictingSettings, match=rf"(?i)({variable}|{ENVIRONMENT[variable]})='?{value}"):
        Database()


@pytest.mark.parametrize("url", [None, ""])
def test_no_url_anywhere_says_where_one_can_stand(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    if url is not None:
        monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(InvalidURL, match=r"DATABASE_URL is not set.*Database\(\"sqlite:///app\.db\"\)"):
        Database()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("DATABASE_MAX_CONECTIONS", "DATABASE_MAX_CONNECTIONS"),
        ("DATABASE_QUEUETIMEOUT", "DATABASE_QUEUE_TIMEOUT"),
        ("DATABASE_ECO", "DATABASE_ECHO"),
    ],
)
def test_a_misspelt_variable_names_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UnknownSetting, match=rf"{variable}.*did you mean {meant}\?"):
        Database()


def test_a_misspelt_database_url_is_named_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_ULR", "postgresql://ann:s3cr3t@localhost/app")
    with pytest.raises((UnknownSetting, InvalidURL), match="DATABASE_ULR") as caught:
        Database()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "variable",
    [
        "DATABASE_USER",
        "DATABASE_URL_RO",
        "DATABASE_URL_UNPOOLED",
        "DATABASE_HOST",
        "DATABASE_NAME",
        "DATABASE_PUBLIC_URL",
    ],
)
def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Hosting providers and compose files set these beside DATABASE_URL."""
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    monkeypatch.setenv(variable, "something")
    assert "sqlite://" in repr(Database())


def test_a_url_of_pydantic_settings_is_taken_or_refused_by_its_type() -> None:
    for url in (
        pydantic.PostgresDsn("postgresql://ann:s3cr3t@localhost/app"),
        pydantic.SecretStr("postgresql://ann:s3cr3t@localhost/app"),
        b"postgresql://ann:s3cr3t@localhost/app",
        5,
        object(),
    ):
        try:
            shown = repr(Database(url))  # type: ignore[arg-type]
        except InvalidURL as error:
            shown = str(error)
            assert type(url).__name__ in shown
        else:
            assert isinstance(url, pydantic.PostgresDsn)
        assert "s3cr3t" not in shown


# models=


@pytest.mark.parametrize("models", ["Base", 5, object, [5], [[declarative_base()]], DeclarativeBase, {"a": 1}])
def test_models_that_have_no_tables_are_refused_with_what_is_taken(models: object) -> None:
    with pytest.raises(InvalidModels, match=r"models=.*(declarative base, a MetaData)"):
        Database("sqlite://", models=models)


def test_models_of_every_kind_are_taken() -> None:
    table = Table("first", MetaData(), Column("id", Integer, primary_key=True))
    base: Any = declarative_base()
    for models in (base, base.metadata, table.metadata, [base, table.metadata], (base,), registry(), None):
        Database("sqlite://", models=models)


def test_create_all_without_models_says_where_they_are_given() -> None:
    for models in (None, []):
        db = Database("sqlite://", models=models)
        with pytest.raises(InvalidModels, match=r"models=Base"):
            db.create_all()
        db.close()


def test_a_model_without_a_primary_key_is_sqlalchemys_own_clear_error() -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(ArgumentError, match="could not assemble any primary key columns for mapped table 'guests'"):

        class Guest(Base):
            __tablename__ = "guests"
            name: Mapped[str] = mapped_column(String(50))


# Drivers. Hidden from the import system in a process of its own: what is imported there is imported for the first time.

HIDE = """
import asyncio, importlib.machinery, json, sys
hidden = set()
finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in hidden else find(name, path, target)
)
hidden |= {"psycopg", "psycopg2", "asyncpg", "aiosqlite"}
from fastapi_database import Database

def tell(kind, url):
    try:
        db = Database(url)
        if kind == "sync":
            return db.engine.driver
        async def engine():
            return db.async_engine.sync_engine.driver
        return asyncio.run(engine())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

found = {}
for name, now in json.loads(sys.argv[1]).items():
    hidden.clear()
    hidden |= set(now)
    for module in [module for module in sys.modules if module.partition(".")[0] in hidden]:
        del sys.modules[module]
    for kind in ("sync", "async"):
        for url in (
            "postgresql://host/db", "postgresql+psycopg://host/db", "postgresql+asyncpg://host/db", "sqlite://"
        ):
            found[f"{name} {kind} {url.partition(':')[0]}"] = tell(kind, url)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def without() -> dict[str, str]:
    hidden = {
        "none": [],
        "psycopg": ["psycopg"],
        "asyncpg": ["asyncpg"],
        "both": ["psycopg", "asyncpg"],
        "aiosqlite": ["aiosqlite"],
    }
    # What was imported once stays: the emptiest comes first.
    order = {name: hidden[name] for name in ("both", "aiosqlite", "psycopg", "asyncpg", "none")}
    done = subprocess.run([sys.executable, "-c", HIDE, json.dumps(order)], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("case", "driver"),
    [
        ("none sync postgresql", "psycopg"),
        ("none async postgresql", "asyncpg"),
        ("none sync postgresql+asyncpg", "psycopg"),
        ("none async postgresql+asyncpg", "asyncpg"),
        ("none async postgresql+psycopg", "psycopg_async"),
        ("none sync sqlite", "pysqlite"),
        ("none async sqlite", "aiosqlite"),
        ("asyncpg async postgresql", "psycopg_async"),
        ("psycopg async postgresql", "asyncpg"),
        ("both sync sqlite", "pysqlite"),
        ("both async sqlite", "aiosqlite"),
        ("aiosqlite sync sqlite", "pysqlite"),
    ],
)
def test_the_driver_that_is_installed_is_taken(without: dict[str, str], case: str, driver: str) -> None:
    assert without[case] in {driver, driver.removesuffix("_async")}


@pytest.mark.parametrize(
    ("case", "missing", "extra"),
    [
        ("both sync postgresql", "psycopg", "fastapi-database[postgresql]"),
        ("both async postgresql", "asyncpg", "fastapi-database[postgresql]"),
        ("psycopg sync postgresql", "psycopg", "fastapi-database[postgresql]"),
        ("psycopg async postgresql+psycopg", "psycopg", "fastapi-database[postgresql]"),
        ("asyncpg async postgresql+asyncpg", "asyncpg", "fastapi-database[postgresql]"),
        ("aiosqlite async sqlite", "aiosqlite", "aiosqlite"),
    ],
)
def test_a_missing_driver_is_one_line_that_names_what_to_install(
    without: dict[str, str], case: str, missing: str, extra: str
) -> None:
    said = without[case]
    assert said.startswith("DriverNotInstalled: ")
    assert repr(missing) in said
    assert f"pip install '{extra}'" in said
    assert "\n" not in said


def test_every_error_of_configuration_is_one_line() -> None:
    for options in ({"zzz": 1}, {"max_connections": 0}, {"models": 5}, {"bind": 1}):
        with pytest.raises(FastAPIDatabaseError) as caught:
            Database("sqlite://", **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("postgresql://host/app?options=-csearch_path%3Dapp", {}, "the URL's options: a pooler takes no parameters"),
        ("postgresql://host/app", {"connect_args": {"options": "-c jit=off"}}, "connect_args' options"),
        ("postgresql://host/app", {"connect_args": {"server_settings": {"jit": "off"}}}, "connect_args' jit"),
    ],
)
def test_parameters_of_a_session_are_refused_behind_a_pooler(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConflictingSettings, match=re.escape(says)):
        Database(url, transaction_pooler=True, **options)


def test_parameters_that_a_pooler_follows_are_taken() -> None:
    Database("postgresql://h/a", transaction_pooler=True, connect_args={"server_settings": {"application_name": "a"}})
