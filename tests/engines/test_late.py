"""Transactions that begin late: never where nothing needs one, and always before anything that does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import ASYNC_DRIVERS, Kind, endpoint, listening, url_for
from fastapi_database import Database
from support.postgres import PostgreSQL

DRIVERS = [("sync", "postgresql+psycopg"), *(("async", one) for one in ASYNC_DRIVERS if one != "sqlite")]
IDLE, IN_TRANSACTION = "idle", "idle in transaction"


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Case:
    """A database, and the state of the one connection that a request has, seen from outside."""

    def __init__(self, kind: Kind, url: str, server: PostgreSQL) -> None:
        self.kind = kind
        self.url = url
        self.server = server
        self.made: list[Database] = []

    def database(self, **options: Any) -> Database:
        db = Database(self.url, models=Base, max_connections=1, **options)
        self.made.append(db)
        with db.engine.begin() as connection:
            Base.metadata.create_all(connection)
        db.engine.dispose()
        return db

    def get(self, function: Callable[[Session], Any], *, db: Database | None = None, method: str = "GET") -> Any:
        """Have a request call a function with its session; give what it returns, or the problem's code."""
        used = db or self.database()
        app = FastAPI()
        used.install(app)
        app.add_api_route("/", endpoint(used, self.kind, function), methods=[method])
        with TestClient(app) as client:
            answer = client.request(method, "/").json()
        return answer["code"] if isinstance(answer, dict) and "code" in answer else answer

    def state(self) -> str:
        """Tell what PostgreSQL says of the connection: idle, or in a transaction."""
        sql = (
            "SELECT state FROM pg_stat_activity WHERE datname = split_part(%s, '/', 4) AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' ORDER BY state_change DESC LIMIT 1"
        )
        return self.server.execute(sql, self.url)[0][0]

    def notes(self) -> list[str]:
        return [row[0] for row in self.server.execute("SELECT text FROM notes ORDER BY id", database=self.url)]


@pytest.fixture(params=DRIVERS, ids="-".join)
def case(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> Iterator[Case]:
    kind, driver = request.param
    made = Case(kind, url_for(request, driver), postgresql)
    yield made
    for db in made.made:
        db.close()


def read(session: Session) -> None:
    session.scalars(select(Note.text)).all()


def test_a_statement_that_the_driver_refuses_costs_no_connection(case: Case) -> None:
    """psycopg has no SQLSTATE for its own errors; a lost connection has none either."""
    statement = select(Note.id).where(Note.id.in_(range(70_000)))
    assert case.get(lambda session: session.scalars(statement).all()) == "database-error"


def test_a_request_that_only_reads_is_never_in_a_transaction(case: Case) -> None:
    def work(session: Session) -> list[str]:
        read(session)
        between = case.state()
        session.get(Note, 1)
        return [between, case.state()]

    assert case.get(work) == [IDLE, IDLE]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_request_that_may_write_begins_with_its_first_statement(case: Case, method: str) -> None:
    assert case.get(lambda session: (read(session), case.state())[1], method=method) == IN_TRANSACTION


def test_begin_begins_with_its_first_statement(case: Case) -> None:
    db = case.database()
    with db.begin() as session:
        read(session)
        assert case.state() == IN_TRANSACTION


NEEDS = {
    "a lock": lambda session: session.scalars(select(Note).with_for_update()).all(),
    "the time": lambda session: session.scalar(text("SELECT now() IS NULL")),
    "a flush": lambda session: (session.add(Note(text="x")), session.flush()),
    "an insert": lambda session: session.execute(insert(Note).values(text="x")),
    "several at once": lambda session: session.execute(insert(Note), [{"text": "x"}, {"text": "y"}]),
    "a setting": lambda session: session.execute(text("SET LOCAL work_mem = '1MB'")),
    "a savepoint": lambda session: (session.begin_nested(), read(session)),
    "the connection": lambda session: (session.connection(), read(session)),
}


@pytest.mark.parametrize("need", NEEDS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "after a read"])
def test_what_needs_a_transaction_is_in_one(case: Case, need: str, first: bool) -> None:
    def work(session: Session) -> str:
        if not first:
            read(session)
        NEEDS[need](session)
        return case.state()

    assert case.get(work) == IN_TRANSACTION


def test_a_transaction_of_another_level_begins_at_once(case: Case) -> None:
    def work(session: Session) -> str:
        session.connection(execution_options={"postgresql_readonly": True})
        read(session)
        return case.state()

    assert case.get(work) == IN_TRANSACTION


@pytest.mark.parametrize("case", DRIVERS[:1], ids="-".join, indirect=True)
def test_a_cursor_in_the_server_lives_in_a_transaction(case: Case) -> None:
    def work(session: Session) -> str:
        for _ in session.execute(select(Note).execution_options(yield_per=1)).partitions():
            pass
        return case.state()

    assert case.get(work) == IN_TRANSACTION


def test_a_write_after_a_read_is_undone_by_a_later_error(case: Case) -> None:
    def work(session: Session) -> None:
        read(session)
        session.add(Note(text="x"))
        session.flush()
        session.execute(text("SELECT * FROM nowhere"))

    assert case.get(work) == "schema-mismatch"
    assert case.notes() == []


def test_a_failed_read_that_was_swallowed_stores_nothing(case: Case) -> None:
    def work(session: Session) -> None:
        try:
            session.scalar(select(Note.id).where(Note.id == 1 / (Note.id * 0)))
            session.execute(text("SELECT id FROM nowhere"))
        except Exception:
            pass
        session.add(Note(text="x"))

    assert case.get(work) == "transaction-aborted"
    assert case.notes() == []


def test_what_the_drivers_own_connection_is_used_for_is_part_of_the_unit(case: Case) -> None:
    def work(session: Session) -> None:
        read(session)
        cursor = session.connection().connection.cursor()
        cursor.execute("INSERT INTO notes (text) VALUES ('by hand')")
        cursor.close()
        session.execute(text("SELECT * FROM nowhere"))

    assert case.get(work) == "schema-mismatch"
    assert case.notes() == []


@contextmanager
def writing_when_it_begins(db: Database) -> Iterator[None]:
    def hook(_session: Session, _transaction: Any, connection: Any) -> None:
        write_by_hand(connection.connection.cursor())

    with listening(Session, "after_begin", hook):
        yield


@contextmanager
def writing_before_a_mapper_inserts(db: Database) -> Iterator[None]:
    def hook(_mapper: Any, connection: Any, _target: Any) -> None:
        write_by_hand(connection.connection.cursor())

    with listening(Note, "before_insert", hook):
        yield


def write_by_hand(cursor: Any) -> None:
    cursor.execute("INSERT INTO notes (text) VALUES ('by a hook')")
    cursor.close()


@pytest.mark.parametrize("hook", [writing_when_it_begins, writing_before_a_mapper_inserts])
def test_what_a_hook_does_with_the_drivers_connection_is_part_of_the_unit(case: Case, hook: Any) -> None:
    db = case.database()

    def work(session: Session) -> None:
        read(session)
        session.add(Note(text="x"))
        session.flush()
        session.execute(text("SELECT * FROM nowhere"))

    with hook(db):
        assert case.get(work, db=db) == "schema-mismatch"
    assert case.notes() == []


def by_options(engine: Any) -> None:
    engine.update_execution_options(isolation_level="REPEATABLE READ")


def listening_to(name: str) -> Callable[[Any], None]:
    def listen(engine: Any) -> None:
        event.listen(engine, name, lambda *_: None)

    listen.__name__ = name
    return listen


HEARD = ("begin", "engine_connect", "before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute")
HEARD += ("do_execute",)


@pytest.mark.parametrize("change", [by_options, *map(listening_to, HEARD)], ids=lambda one: one.__name__)
def test_with_a_listener_that_gets_the_connection_everything_begins_at_once(case: Case, change: Any) -> None:
    """More than one request: the first must give its connection back as it was."""
    db = case.database()

    def work(session: Session) -> str:
        change(db.engine if case.kind == "sync" else db.async_engine.sync_engine)
        read(session)
        return case.state()

    assert [case.get(work, db=db) for _ in range(3)] == [IN_TRANSACTION] * 3


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_whoever_asks_for_an_isolation_level_gets_a_transaction_at_once(case: Case, level: str) -> None:
    db = case.database(isolation_level=level)
    assert case.get(lambda session: (read(session), case.state())[1], db=db) == IN_TRANSACTION


def test_where_the_server_has_another_level_a_unit_sees_one_state_of_the_database(case: Case) -> None:
    name = case.url.rpartition("/")[2]
    case.server.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")

    def work(session: Session) -> list[int]:
        counted = [len(session.scalars(select(Note.id)).all())]
        case.server.execute("INSERT INTO notes (text) VALUES ('meanwhile')", database=case.url)
        return [*counted, len(session.scalars(select(Note.id)).all())]

    assert case.get(work) == [0, 0]


@pytest.mark.parametrize("case", DRIVERS[:1], ids="-".join, indirect=True)
def test_the_connection_of_a_request_that_read_is_as_before_for_whoever_takes_it_next(case: Case) -> None:
    db = case.database()

    def work(session: Session) -> None:
        read(session)

    app = FastAPI()
    db.install(app)
    app.add_api_route("/", endpoint(db, case.kind, work))
    client = TestClient(app)  # no lifespan: the pool stays open
    assert client.get("/").status_code == 200
    with db.engine.connect() as connection:
        connection.execute(insert(Note).values(text="not committed"))
        assert case.state() == IN_TRANSACTION
    with db.begin() as session:
        session.add(Note(text="x"))
        session.flush()
        assert case.state() == IN_TRANSACTION
    assert case.notes() == ["x"]


@pytest.mark.filterwarnings("ignore:.*server_side_cursors:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*server_side_cursors:sqlalchemy.exc.SADeprecationWarning")
def test_a_get_can_read_where_every_cursor_is_one_of_the_server(postgresql_url: str) -> None:
    """It lives in a transaction; SQLAlchemy has this setting still, for psycopg."""
    url = postgresql_url.replace("postgresql:", "postgresql+psycopg:")
    db = Database(url, max_connections=1, server_side_cursors=True)
    app = FastAPI()
    db.install(app)
    app.add_api_route("/", endpoint(db, "sync", lambda session: session.scalar(text("SELECT 1"))), methods=["GET"])
    with TestClient(app) as client:
        answer = client.get("/")
    db.close()
    assert (answer.status_code, answer.json()) == (200, 1)
