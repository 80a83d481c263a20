"""A10: a connection that is lost around COMMIT. What the client is told is what is stored, or that nobody knows."""

import asyncio
import itertools
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import ROUTERS, Kind, endpoint, router, work
from fastapi_database import Database
from fastapi_database.errors import OutcomeUnknown
from support.postgres import PostgreSQL
from support.proxy import Fault, Proxy, Test, answers, ready_after, sends

FORMS = [("sync", "psycopg"), ("async", "psycopg"), ("async", "asyncpg")]
FAULTS = [Fault.CUT, Fault.RESET]
# The step, how much of its message still passes, what the client may be told, and whether the row is there.
STEPS: dict[str, tuple[Test, float, set[str], bool | None]] = {
    "before COMMIT is sent": (sends("COMMIT"), 0.0, {"outcome-unknown"}, False),
    "half of COMMIT is sent": (sends("COMMIT"), 0.5, {"outcome-unknown"}, False),
    "COMMIT is sent": (sends("COMMIT"), 1.0, {"outcome-unknown"}, None),
    "the answer is due": (answers("COMMIT"), 0.0, {"outcome-unknown"}, True),
    "in the middle of the answer": (answers("COMMIT"), 0.5, {"outcome-unknown"}, True),
    # Told that it is committed, a driver may take the loss for the next statement's.
    "after the answer": (ready_after("COMMIT"), 0.0, {"outcome-unknown", ""}, True),
    "with the last statement": (answers("INSERT"), 1.0, {"connection-lost"}, False),
    "in the middle of the last statement's answer": (answers("INSERT"), 0.5, {"connection-lost"}, False),
}


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture(params=FORMS, ids="-".join)
def case(request: pytest.FixtureRequest, proxy: Proxy, postgresql_url: str) -> Iterator[tuple[Kind, Database]]:
    kind, driver = request.param
    url = make_url(postgresql_url).set(drivername=f"postgresql+{driver}", port=proxy.port)
    db = Database(url, models=Base)
    db.create_all()
    yield kind, db
    db.close()


@pytest.fixture
def rows(postgresql: PostgreSQL, postgresql_url: str) -> Callable[[], int]:
    """Count what is stored, past the proxy."""
    return lambda: postgresql.execute("SELECT count(*) FROM notes", database=postgresql_url)[0][0]


def add(session: Session) -> dict[str, bool]:
    session.add(Note(text="paid"))
    session.flush()
    return {"ok": True}


def app_of(db: Database, kind: Kind, routes: str) -> FastAPI:
    app, added = FastAPI(), router(routes)
    added.add_api_route("/", endpoint(db, kind, add), methods=["POST"])
    db.install(app)
    app.include_router(added)
    return app


@pytest.mark.parametrize("where", list(itertools.product(ROUTERS, STEPS)), ids="-".join)
def test_a10_a_connection_lost_around_commit_is_answered_as_what_is_known(
    case: tuple[Kind, Database],
    proxy: Proxy,
    rows: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    where: tuple[str, str],
) -> None:
    kind, db = case
    routes, step = where
    test, part, told, stored = STEPS[step]
    with TestClient(app_of(db, kind, routes)) as client:
        for count, fault in enumerate(FAULTS):
            caplog.clear()
            before = rows()
            rule = proxy.fail(test, fault, part=part)
            answer = client.post("/")
            assert rule.hit.is_set()
            code = answer.json().get("code", "")
            assert code in told, answer.json()
            assert answer.status_code == {"outcome-unknown": 500, "connection-lost": 503, "": 200}[code]
            assert ("retry-after" in answer.headers) == (code == "connection-lost")
            assert stored is None or rows() == before + stored, count
            said = [one for one in caplog.messages if "not known" in one]
            assert len(said) == (code == "outcome-unknown"), caplog.messages
            assert all('"POST /"' in one for one in said)
            assert client.post("/").status_code == 200
    assert (db.stats().in_use, db.stats().waiting) == (0, 0)


def test_a10_db_begin_raises_the_same_in_a_script(
    case: tuple[Kind, Database], proxy: Proxy, rows: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    kind, db = case
    proxy.fail(answers("COMMIT"))
    with pytest.raises(OutcomeUnknown, match="not known"):
        work(db, kind, add)
    assert rows() == 1
    assert [one for one in caplog.messages if "db.begin() at " in one and "not known" in one]
    work(db, kind, add)
    assert rows() == 2


def test_a10_a_commit_of_the_handlers_own_is_told_too(
    case: tuple[Kind, Database], proxy: Proxy, rows: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    kind, db = case
    app = FastAPI()

    def commit(session: Session) -> None:
        add(session)
        session.commit()

    db.install(app)
    app.add_api_route("/", endpoint(db, kind, commit), methods=["POST"])
    proxy.fail(answers("COMMIT"))
    with TestClient(app) as client:
        answer = client.post("/")
    assert (answer.status_code, answer.json()["code"], rows()) == (500, "outcome-unknown", 1)
    assert len([one for one in caplog.messages if '"POST /"' in one and "not known" in one]) == 1


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a10_a_commit_cut_short_by_a_native_cancellation_is_in_the_log(
    proxy: Proxy, postgresql_url: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = make_url(postgresql_url).set(drivername=f"postgresql+{driver}", port=proxy.port)

    async def main() -> None:
        db = Database(url, models=Base)
        await db.acreate_all()
        proxy.fail(answers("COMMIT"), Fault.BLACK_HOLE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0), db.begin() as session:
                session.add(Note(text="paid"))
        proxy.end_all()
        await db.aclose()

    asyncio.run(main())
    assert [one for one in caplog.messages if "was cancelled" in one and "not known" in one]


def test_a10_what_was_lost_before_commit_is_known_not_to_be_stored(
    case: tuple[Kind, Database], proxy: Proxy, rows: Callable[[], int]
) -> None:
    kind, db = case
    app = FastAPI()

    def lose(session: Session) -> None:
        add(session)
        assert proxy.end_all(Fault.CUT) >= 1

    db.install(app)
    app.add_api_route("/", endpoint(db, kind, lose), methods=["POST"])
    with TestClient(app) as client:
        answer = client.post("/")
    assert (answer.status_code, answer.json()["code"], rows()) == (503, "connection-lost", 0)
