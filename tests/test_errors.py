"""The errors of this library: each is raised through the public interface, and says what, why and what to do."""

import asyncio
import importlib.util
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import ForeignKey, exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from apps.c_cases import endpoint
from docs.error_table import leaves
from fastapi_database import Database, errors
from fastapi_database.errors import FastAPIDatabaseError
from support.postgres import PostgreSQL
from support.proxy import answers, proxied


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list["Order"]] = relationship()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))


def unknown_setting() -> None:
    Database("sqlite://", max_conections=3)


def conflicting_settings() -> None:
    Database("sqlite://", max_connections=3, pool_size=5, max_overflow=0)


def invalid_url() -> None:
    Database("app.db")


def unsupported_database() -> None:
    Database("oracle://ann@host/app")


def driver_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "psycopg" else find(name, *rest)
    )
    with Database("postgresql://host/app").begin() as session:
        session.execute(text("SELECT 1"))


def invalid_models() -> None:
    Database("sqlite://", models="Base")


def not_installed() -> None:
    answer(FastAPI(), endpoint(Database("sqlite://"), "sync", lambda _: None))


def already_installed() -> None:
    db, app = Database("sqlite://"), FastAPI()
    db.install(app)
    db.install(app)


def installed_too_late() -> None:
    app = FastAPI()
    TestClient(app).get("/")
    Database("sqlite://").install(app)


def wrong_session() -> None:
    db, app = Database("sqlite://"), FastAPI()
    db.install(app)

    @app.get("/orders")
    async def list_orders(session: Annotated[Session, Depends(db.session)]) -> None: ...


def mixed_sessions() -> None:
    db, app = Database("sqlite://"), FastAPI()
    db.install(app)

    def current_guest(session: Annotated[Session, Depends(db.session)]) -> None: ...

    @app.get("/orders", dependencies=[Depends(current_guest)])
    async def list_orders(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None: ...


def session_in_stream() -> None:
    db, app = Database("sqlite://"), FastAPI()
    db.install(app)

    @app.get("/events")
    def events(session: Annotated[Session, Depends(db.session)]) -> Iterator[str]:
        yield ""


def built_inside_request() -> None:
    answer(FastAPI(), lambda: Database("sqlite://"))


def unit_ended() -> None:
    db = Database("sqlite://")
    with db.begin() as session:
        pass
    session.execute(text("SELECT 1"))


def outside_request() -> None:
    Database("sqlite://").session()


def concurrent_use() -> None:
    async def gather() -> None:
        async with Database("sqlite://").begin() as session:
            await session.execute(text("SELECT 1"))
            at_once = [session.execute(text("SELECT 1")) for _ in range(3)]
            found = await asyncio.gather(*at_once, return_exceptions=True)
            raise next(one for one in found if isinstance(one, Exception))

    asyncio.run(gather())


def unsaved_work() -> None:
    with closing(Database("sqlite://", models=Base)) as db:
        db.create_all()
        with db.begin() as session:
            session.add(Guest(id=1))
            with db.released(session):
                pass


def session_released() -> None:
    with closing(Database("sqlite://")) as db, db.begin() as session, db.released(session):
        session.execute(text("SELECT 1"))


def load_outside_session() -> None:
    async def read() -> None:
        db = Database("sqlite://", models=Base)
        await db.acreate_all()
        async with db.begin() as session:
            session.add(Guest(id=1))
            await session.flush()
            session.expunge_all()
            guest = await session.get_one(Guest, 1)
            print(guest.orders)

    asyncio.run(read())


def inherited_connection() -> None:
    with closing(Database("sqlite://")) as db, db.begin() as session:
        session.execute(text("SELECT 1"))
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which are pytest's
            child = os.fork()
        if child == 0:
            try:
                session.execute(text("SELECT 1"))
            except errors.InheritedConnection as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with open(reading) as pipe:
            raise errors.InheritedConnection(pipe.read().removesuffix(" [inherited-connection]"))


def session_feature(postgresql: PostgreSQL) -> None:
    db = Database(postgresql.url(), transaction_pooler=True)
    with closing(db), db.begin() as session:
        session.execute(text("SET search_path TO other"))


def transaction_aborted() -> None:
    with closing(Database("sqlite://")) as db, db.begin() as session:
        try:
            session.execute(text("SELECT * FROM nowhere"))
        except exc.OperationalError:
            session.execute(text("SELECT 1"))


def deadline_exceeded() -> None:
    with closing(Database("sqlite://")) as db, db.begin(timeout=0.01) as session:
        time.sleep(0.02)
        session.execute(text("SELECT 1"))


def outcome_unknown(postgresql: PostgreSQL, postgresql_url: str) -> None:
    with proxied(postgresql.port) as proxy, closing(Database(make_url(postgresql_url).set(port=proxy.port))) as db:
        proxy.fail(answers("COMMIT"))
        with db.begin() as session:
            session.execute(text("CREATE TABLE t (id INT)"))


def queue_full() -> None:
    with closing(Database("sqlite://", max_connections=1, max_waiting=0)) as db, db.begin() as session:
        session.execute(text("SELECT 1"))
        in_a_thread(db)


def queue_timeout() -> None:
    with closing(Database("sqlite://", max_connections=1, queue_timeout=0.05)) as db, db.begin() as session:
        session.execute(text("SELECT 1"))
        in_a_thread(db)


def queue_shed() -> None:
    settings = {"max_connections": 1, "max_waiting": 20, "queue_target": 0.01}
    with closing(Database("sqlite://", **settings)) as db, ThreadPoolExecutor(50) as threads:  # type: ignore[arg-type]

        def work() -> None:
            with db.begin() as session:
                session.execute(text("SELECT 1"))
                time.sleep(0.05)

        running: list[Future[None]] = []
        while not db.stats().shed:  # twice as many come as can be served, for some seconds
            running.append(threads.submit(work))
            time.sleep(0.025)
        raise next(error for one in running if isinstance(error := one.exception(), errors.QueueShed))


def unreachable() -> None:
    with Database("postgresql://ann:s3cr3t-7f@127.0.0.1:1/app").begin() as session:
        session.execute(text("SELECT 1"))


def login_refused(postgresql: PostgreSQL) -> None:
    url = f"postgresql://nobody:s3cr3t-7f@127.0.0.1:{postgresql.port}/postgres"
    with Database(url).begin() as session:
        session.execute(text("SELECT 1"))


RAISED: dict[type[FastAPIDatabaseError], tuple[Callable[..., None], str, str]] = {
    # how it is raised, what the message must show of the case at hand, and what it tells to do
    errors.UnknownSetting: (unknown_setting, "max_conections", "did you mean 'max_connections'"),
    errors.ConflictingSettings: (conflicting_settings, "max_connections=3 .* max_connections=5", "keep"),
    errors.InvalidURL: (invalid_url, "URL", "for example sqlite:///app.db"),
    errors.UnsupportedDatabase: (unsupported_database, "oracle://", "supported are sqlite://, postgresql://"),
    errors.DriverNotInstalled: (driver_not_installed, "psycopg", r"pip install 'fastapi-database\[postgresql\]'"),
    errors.InvalidModels: (invalid_models, "'Base'", "pass a declarative base"),
    errors.NotInstalled: (not_installed, "session", r"call db\.install\(app\)"),
    errors.AlreadyInstalled: (already_installed, "sqlite:// is installed", "once is enough"),
    errors.InstalledTooLate: (installed_too_late, "started", "call it where"),
    errors.WrongSession: (wrong_session, r"GET /orders .*list_orders, test_errors\.py:\d+", "Make it `def`"),
    errors.MixedSessions: (
        mixed_sessions,
        r"GET /orders .*sync by .*current_guest.*async by the endpoint",
        "Use one kind",
    ),
    errors.SessionInStream: (session_in_stream, r"GET /events .*events, test_errors", r"`with db\.begin\(\) as"),
    errors.BuiltInsideRequest: (built_inside_request, "Database was built", "Build it once"),
    errors.UnitEnded: (unit_ended, r"db\.begin\(\) at test_errors\.py:\d+", r"`with db\.begin\(\) as session:`"),
    errors.OutsideRequest: (outside_request, r"db\.session", r"`with db\.begin\(\) as session:`"),
    errors.ConcurrentUse: (concurrent_use, r"db\.begin\(\) at test_errors\.py:\d+", "Await the statements"),
    errors.UnsavedWork: (unsaved_work, r"db\.begin\(\) at test_errors\.py:\d+", r"Call session\.commit\(\) before"),
    errors.SessionReleased: (session_released, r"db\.begin\(\) at test_errors\.py:\d+", "before or after the block"),
    errors.LoadOutsideSession: (load_outside_session, r"db\.begin\(\) at test_errors\.py:\d+", "selectinload"),
    errors.InheritedConnection: (inherited_connection, "was forked was used in the child", "Open a new one"),
    errors.SessionFeature: (session_feature, "'SET search_path TO' is for", "Write SET LOCAL"),
    errors.TransactionAborted: (transaction_aborted, "COMMIT", r"session\.begin_nested\(\)"),
    errors.DeadlineExceeded: (deadline_exceeded, r"had 0\.01 s for its unit of work", "raise timeout="),
    errors.OutcomeUnknown: (outcome_unknown, "between COMMIT and its answer", "Look for what it was to store"),
    errors.QueueFull: (queue_full, "0 requests wait for one of 1 connections", "max_waiting"),
    errors.QueueShed: (
        queue_shed,
        r"after \d\.\d\d s, and more requests come than are served \(max_connections 1, in use 1, .*queue_target=0\.01",
        "raise max_connections",
    ),
    errors.QueueTimeout: (
        queue_timeout,
        r"after 0\.\d\d s \(max_connections 1, in use 1, .*by db\.begin\(\) at test_errors",
        "raise max_connections",
    ),
    errors.Unreachable: (unreachable, r"postgresql://ann:\*\*\*@127\.0\.0\.1:1/app", "Is the server running"),
    errors.LoginRefused: (login_refused, "nobody", "Check user, password and database name"),
}


def test_every_error_is_raised_here() -> None:
    assert RAISED.keys() == set(leaves())


@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.code)
def test_an_error_is_raised_through_the_public_interface_and_teaches(
    error: type[FastAPIDatabaseError], request: pytest.FixtureRequest
) -> None:
    provoke, shows, advises = RAISED[error]
    wanted = provoke.__code__.co_varnames[: provoke.__code__.co_argcount]
    with pytest.raises(FastAPIDatabaseError) as caught:
        provoke(*(request.getfixturevalue(name) for name in wanted))
    said = str(caught.value)
    assert type(caught.value) is error
    assert re.search(shows, said), said
    assert re.search(advises, said), said
    assert said.endswith(f" [{error.code}]")
    assert "\n" not in said
    assert "s3cr3t-7f" not in said
    assert len(said) > 60


def test_codes_are_stable_words_and_each_is_used_once() -> None:
    codes = [error.code for error in leaves()]
    assert len(set(codes)) == len(codes)
    for error in leaves():
        words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+", error.__name__)
        assert error.code == "-".join(words).lower()
        assert error.__doc__
        assert error.status in {500, 503, 504}
    assert {error for error in leaves() if error.status == 503} == set(leaves(errors.Unavailable))


def test_the_tree_is_drawn_in_the_docstring_as_it_is() -> None:
    drawn = re.findall(r"^([│ ├└─]*)(\w+) *(.*)$", errors.__doc__.split("```")[1], re.MULTILINE)  # type: ignore[union-attr]
    path: list[str] = []
    for branch, name, rest in drawn:
        path[len(branch) // 4 :] = [name]
        cls = getattr(errors, name)
        assert len(path) == 1 or issubclass(cls, getattr(errors, path[-2])), name
        if cls in leaves():
            assert rest.split()[-1] == cls.code, name
    assert {name for _, name, _ in drawn} >= {error.__name__ for error in leaves()}


def test_the_root_catches_everything_of_ours_and_nothing_else() -> None:
    for error in leaves():
        assert issubclass(error, FastAPIDatabaseError)
        assert not issubclass(error, exc.SQLAlchemyError)
    assert errors.QueueTimeout("x").retry_after == 1
    assert errors.InvalidURL("x").retry_after is None
    assert errors.QueueTimeout("x", retry_after=7).retry_after == 7


def answer(app: FastAPI, function: Callable[..., Any]) -> None:
    """Serve one request; what it raises comes here."""
    app.add_api_route("/", function, response_model=None)
    TestClient(app).get("/")


def in_a_thread(db: Database) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(use, db).result()


def use(db: Database) -> None:
    with db.begin() as session:
        session.execute(text("SELECT 1"))
