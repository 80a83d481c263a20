"""C4: a URL in any form that people have it in connects, and its password is shown nowhere."""

import asyncio
import logging
import secrets
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from apps.c_cases import EVERY_DRIVER, KINDS, ROUTERS, Kind, endpoint, router, work
from fastapi_database import Database
from fastapi_database.errors import (
    FastAPIDatabaseError,
    InvalidURL,
    LoginRefused,
    Unreachable,
    UnsupportedDatabase,
)
from support.postgres import PostgreSQL

PASSWORD = "p@ss/w:rd%"
WHO = text(
    "SELECT current_user, current_database(), host(inet_server_addr()), current_setting('application_name'), "
    "current_setting('search_path'), current_setting('statement_timeout')"
)
DRIVERS = [case for case in EVERY_DRIVER if case[1] != "sqlite"]
BARE = [(kind, "postgresql") for kind in KINDS]
NOBODY_LISTENS = 1  # tcpmux: a port below 1024 that no test reserves


@dataclass(frozen=True)
class Place:
    """A database whose owner has a name and a password that need percent-encoding."""

    user: str
    database: str
    port: int

    @property
    def login(self) -> str:
        return f"{quote(self.user, safe='')}:{quote(PASSWORD, safe='')}"

    def fill(self, form: str) -> str:
        """Replace LOGIN, PORT and DATABASE in the form of a URL."""
        filled = form.replace("LOGIN", self.login).replace("PORT", str(self.port))
        return filled.replace("DATABASE", self.database)


@pytest.fixture(scope="module")
def place(postgresql: PostgreSQL) -> Iterator[Place]:
    database, user = postgresql.create_database(), f"ann@{secrets.token_hex(4)}"
    postgresql.execute(f"CREATE ROLE \"{user}\" LOGIN PASSWORD '{PASSWORD}'")
    yield Place(user, database, postgresql.port)
    postgresql.drop_database(database)
    postgresql.execute(f'DROP ROLE "{user}"')


FORMS = {
    "postgres://": "postgres://LOGIN@127.0.0.1:PORT/DATABASE",
    "upper case": "POSTGRES://LOGIN@127.0.0.1:PORT/DATABASE",
    "postgresql://": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE",
    "white space around": " postgresql://LOGIN@127.0.0.1:PORT/DATABASE\n",
    "sslmode=disable": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?sslmode=disable",
    "sslmode=allow": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?sslmode=allow",
    "sslmode=prefer": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?sslmode=prefer",
    "IPv6": "postgresql://LOGIN@[::1]:PORT/DATABASE",
    "list of hosts": "postgresql://LOGIN@127.0.0.1:1,127.0.0.1:PORT/DATABASE",
    "list of IPv6 hosts": "postgresql://LOGIN@[::1]:1,[::1]:PORT/DATABASE",
    "list of both": "postgresql://LOGIN@127.0.0.1:1,[::1]:PORT/DATABASE",
    "host without port in a list": "postgresql://LOGIN@localhost,127.0.0.1:PORT/DATABASE",
    "repeated host": "postgresql://LOGIN@/DATABASE?host=127.0.0.1:1&host=127.0.0.1:PORT",
    "lists in parameters": "postgresql://LOGIN@/DATABASE?host=127.0.0.1,127.0.0.1&port=1,PORT",
    "host in a parameter": "postgresql://LOGIN@/DATABASE?host=127.0.0.1&port=PORT",
    "any server will do": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?target_session_attrs=any",
    "a primary": "postgresql://LOGIN@127.0.0.1:1,127.0.0.1:PORT/DATABASE?target_session_attrs=read-write",
    "what libpq alone knows": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?keepalives=1&keepalives_idle=5"
    "&gssencmode=disable&channel_binding=prefer&tcp_user_timeout=1000&load_balance_hosts=disable",
    "what asyncpg alone knows": "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?ssl=disable&statement_cache_size=0"
    "&prepared_statement_cache_size=0",
}


@pytest.mark.parametrize(
    ("kind", "driver", "name"),
    [
        (kind, driver, name)
        for kind, driver in [*BARE, *DRIVERS]
        for name, form in FORMS.items()
        if driver == "postgresql" or form.startswith("postgresql:")  # else there is no place for a driver in it
    ],
)
def test_c4_a_url_connects(place: Place, kind: Kind, driver: str, name: str) -> None:
    form = FORMS[name].replace("postgresql:", f"{driver}:", 1)
    db = Database(place.fill(form))
    user, database, *_ = work(db, kind, lambda session: session.execute(WHO).one())
    assert (user, database) == (place.user, place.database)
    assert PASSWORD not in repr(db)
    assert quote(PASSWORD, safe="") not in repr(db)
    db.close()


@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
def test_c4_parameters_of_the_url_reach_the_server(place: Place, kind: Kind, driver: str) -> None:
    form = (
        f"{driver}://LOGIN@[::1]:PORT/DATABASE?application_name=my%20caf%C3%A9&connect_timeout=7"
        "&options=-c%20search_path%3Dcafe%20-c%20statement_timeout%3D5s&target_session_attrs=read-write"
    )
    db = Database(place.fill(form))
    row = work(db, kind, lambda session: session.execute(WHO).one())
    assert tuple(row)[2:] == ("::1", "my caf\\xc3\\xa9", "cafe", "5s")
    db.close()


def test_c4_a_url_object_of_sqlalchemy_connects(place: Place) -> None:
    for drivername in ("postgres", "postgresql", "postgresql+asyncpg"):
        url = make_url(place.fill("postgresql://LOGIN@127.0.0.1:PORT/DATABASE")).set(drivername=drivername)
        db = Database(url)
        for kind in KINDS:
            assert work(db, kind, lambda session: session.execute(WHO).one())[0] == place.user
        db.close()


@pytest.mark.parametrize(
    "form", ["sqlite:///FILE", "SQLITE:///FILE", "sqlite+pysqlite:///FILE", "sqlite+aiosqlite:///FILE"]
)
def test_c4_a_sqlite_file_opens_sync_and_async(sqlite_url: str, form: str) -> None:
    db = Database(form.replace("FILE", str(make_url(sqlite_url).database)))
    for number, kind in enumerate(KINDS):
        made = work(db, kind, lambda session: session.execute(text("PRAGMA user_version")).scalar_one())
        assert made == number
        work(db, kind, lambda session: session.execute(text("PRAGMA user_version=1")))
    db.close()


def test_c4_parameters_of_a_sqlite_url_are_kept(sqlite_url: str) -> None:
    writable = Database(sqlite_url)
    work(writable, "sync", lambda session: session.execute(text("CREATE TABLE t (id INTEGER)")))
    writable.close()
    db = Database(
        f"sqlite:///file:{make_url(sqlite_url).database}?mode=ro&uri=true&timeout=1.5",
    )
    for kind in KINDS:
        assert work(db, kind, lambda session: session.scalar(text("PRAGMA busy_timeout"))) == 1500
        assert work(db, kind, lambda session: session.scalar(text("SELECT count(*) FROM t"))) == 0
    db.close()


@pytest.mark.parametrize("url", ["mysql://ann:s3cr3t@host/db", "mysql+pymysql://host/db", "mariadb://host/db"])
def test_c4_mysql_is_refused_with_what_is_supported(url: str) -> None:
    with pytest.raises(UnsupportedDatabase, match=r"sqlite://.*postgresql://") as caught:
        Database(url)
    assert "s3cr3t" not in str(caught.value)
    assert "MariaDB" in str(caught.value)  # and that it comes later


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycog://host/db",
        "postgresql+pg8000://host/db",
        "sqlite+pysqlcipher://:key@/x.db",
        "sqlite+sqlite3:///x",
    ],
)
def test_c4_a_driver_in_the_url_is_taken_or_refused_and_never_replaced(url: str) -> None:
    with pytest.raises((UnsupportedDatabase, InvalidURL), match=make_url(url).drivername.partition("+")[2]):
        Database(url)


FAILURES: dict[str, tuple[str, type[FastAPIDatabaseError], str]] = {
    "wrong password": ("postgresql://USER:s3cr3t-7f@127.0.0.1:PORT/DATABASE", LoginRefused, "password"),
    "no password": ("postgresql://USER@127.0.0.1:PORT/DATABASE", LoginRefused, "password"),
    "unknown user": ("postgresql://nobody:s3cr3t-7f@127.0.0.1:PORT/DATABASE", LoginRefused, "nobody"),
    "unknown database": ("postgresql://LOGIN@127.0.0.1:PORT/no_such_db", LoginRefused, "no_such_db"),
    "nobody listens": (f"postgresql://LOGIN@127.0.0.1:{NOBODY_LISTENS}/DATABASE", Unreachable, "refused|failed"),
    "unknown host": ("postgresql://LOGIN@no-such-host.invalid:PORT/DATABASE", Unreachable, "no-such-host"),
    "no TLS there": ("postgresql://LOGIN@127.0.0.1:PORT/DATABASE?sslmode=require", Unreachable, "SSL"),
    "a standby": (
        "postgresql://LOGIN@127.0.0.1:PORT/DATABASE?target_session_attrs=standby",
        Unreachable,
        "standby",
    ),
    "password in the query": (
        "postgresql://127.0.0.1:PORT/DATABASE?user=nobody&password=s3cr3t-7f",
        LoginRefused,
        "nobody",
    ),
    "no host of the list": (
        "postgresql://LOGIN@127.0.0.1:1,[::1]:1/DATABASE",
        Unreachable,
        "refused|failed|can not be reached",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
def test_c4_a_failed_login_is_one_clear_error_without_the_password(
    place: Place, caplog: pytest.LogCaptureFixture, kind: Kind, driver: str, failure: str
) -> None:
    caplog.set_level(logging.DEBUG)
    form, expected, says = FAILURES[failure]
    form = form.replace("USER", quote(place.user, safe="")).replace("postgresql:", f"{driver}:", 1)
    db = Database(place.fill(form), echo=True, echo_pool="debug")
    with pytest.raises(expected, match=says) as caught:
        work(db, kind, lambda session: session.execute(WHO).one())
    shown = "".join(traceback.format_exception(caught.value)) + repr(db) + caplog.text + str(caught.value)
    for secret in ("s3cr3t-7f", PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in shown
    assert "\n" not in str(caught.value)
    db.close()


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", ["wrong password", "nobody listens"])
def test_c4_a_request_is_told_503_and_nothing_of_the_server(
    place: Place, caplog: pytest.LogCaptureFixture, kind: Kind, name: str, failure: str
) -> None:
    form, expected, _ = FAILURES[failure]
    form = form.replace("USER", quote(place.user, safe=""))
    db, app, routes = Database(place.fill(form)), FastAPI(), router(name)
    db.install(app)
    routes.add_api_route("/", endpoint(db, kind, lambda session: session.execute(WHO).one()[0]))
    app.include_router(routes)
    with TestClient(app) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.json()["code"]) == (503, expected.code)
    assert "127.0.0.1" not in answer.text
    assert "127.0.0.1" in caplog.text  # but the log says which server it was
    assert "s3cr3t-7f" not in answer.text + caplog.text
    assert quote(PASSWORD, safe="") not in answer.text + caplog.text


def test_c4_no_password_in_repr_in_any_part_of_the_url() -> None:
    for url in (
        "postgresql://ann:s3cr3t@localhost/app",
        "postgresql://ann@localhost/app?password=s3cr3t",
        "postgresql://ann@localhost/app?sslpassword=s3cr3t",
        "postgres://ann:s3cr3t@db1:5432,db2:5433/app?sslmode=require",
    ):
        db = Database(url)
        assert "s3cr3t" not in repr(db)
        if "sslpassword" not in url:  # SQLAlchemy's own repr knows nothing of it
            assert "s3cr3t" not in repr(db.engine)
        assert "localhost" in repr(db) or "db1" in repr(db)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        "app.db",
        "postgresql",
        "postgresql:/ann:s3cr3t@host/db",
        "postgresql://ann:s3cr3t@host:port/db",
        "postgresql://ann:s3cr3t@[::1/db",
        "postgresql://ann:s3cr3t@host:5432:5433/db",
        "postgresql://ann:p@s3cr3t/w:rd@host/db",
        "sqlite:/app.db",
        "sqlite://app.db",
    ],
)
def test_c4_a_malformed_url_is_refused_at_once_without_its_password(url: str) -> None:
    with pytest.raises(InvalidURL, match=r"URL|sqlite:///") as caught:
        Database(url)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in shown.replace(repr(url), "")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_c4_connections_of_both_kinds_name_one_server_once(place: Place) -> None:
    """What `describe` gives for messages is the URL that was passed, whatever was made of it for the driver."""
    db = Database(place.fill("postgres://LOGIN@127.0.0.1:1,127.0.0.1:PORT/DATABASE"))
    shown: Callable[[Session], str] = lambda session: str(session.get_bind())  # noqa: E731
    for kind in KINDS:
        assert quote(PASSWORD, safe="") not in work(db, kind, shown)
    db.close()


def test_c4_a_silent_server_is_given_up_after_the_time_in_the_url() -> None:
    """A port that accepts and says nothing, as behind a broken proxy."""
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for driver in ("psycopg", "asyncpg"):
            db = Database(f"postgresql+{driver}://ann:s3cr3t@127.0.0.1:{port}/app?connect_timeout=2")

            async def connect(db: Database = db) -> None:
                async with db.begin() as session:
                    await session.execute(text("SELECT 1"))

            started = time.monotonic()
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
                asyncio.run(connect())
            assert 1 < time.monotonic() - started < 4.9
            db.close()
