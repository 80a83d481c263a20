"""A SQLite file that is gone, and one whose disk is full: 503, nothing stored, 200 again when it is over."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import KINDS, Kind, endpoint, work
from fastapi_database import Database


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "notes.sqlite"


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, file: Path) -> Iterator[tuple[Kind, Database]]:
    db = Database(f"sqlite:///{file}", models=Base)
    db.create_all()
    yield request.param, db
    db.close()


def app_of(db: Database, kind: Kind, handler: Callable[[Session], object]) -> FastAPI:
    app = FastAPI()
    db.install(app)
    app.add_api_route("/", endpoint(db, kind, handler), methods=["POST"])
    app.add_api_route("/notes", endpoint(db, kind, count), methods=["GET"])
    return app


def count(session: Session) -> int | None:
    return session.scalar(select(func.count()).select_from(Note))


def add(session: Session) -> None:
    session.add(Note(text="x" * 1000))


def test_a_file_that_is_gone_is_503_until_it_is_back(case: tuple[Kind, Database], file: Path) -> None:
    kind, db = case
    away = file.with_name("away.sqlite")
    with TestClient(app_of(db, kind, add)) as client:
        assert client.post("/").status_code == 200
        for part in ("", "-wal", "-shm"):
            if Path(f"{file}{part}").exists():
                Path(f"{file}{part}").rename(f"{away}{part}")
        for _ in range(3):
            for answer in (client.post("/"), client.get("/notes")):
                assert (answer.status_code, answer.json()["code"]) == (503, "unreachable")
        assert not file.exists()  # an empty one without tables is not made in its place
        for part in ("", "-wal", "-shm"):
            if Path(f"{away}{part}").exists():
                Path(f"{away}{part}").rename(f"{file}{part}")
        assert client.get("/notes").json() == 1
        assert client.post("/").status_code == 200
        assert client.get("/notes").json() == 2


@pytest.mark.parametrize("url", ["sqlite:///notes.sqlite", "sqlite:///file:notes.sqlite?mode=rwc&uri=true"])
@pytest.mark.parametrize("first", ["before", "after"])
def test_a_relative_path_means_the_same_file_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, first: str
) -> None:
    """It is not taken for one that is gone, and no second one is made, whenever the engines are made."""
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    monkeypatch.chdir(here)
    db = Database(url, models=Base)
    db.create_all()
    if first == "before":
        for kind in KINDS:
            work(db, kind, add)
    monkeypatch.chdir(there)
    for kind in KINDS:
        work(db, kind, add)
    assert work(db, "sync", count) == (4 if first == "before" else 2)
    db.close()
    assert list(there.iterdir()) == []


def test_a_file_that_was_replaced_is_the_one_that_is_used(
    case: tuple[Kind, Database], file: Path, tmp_path: Path
) -> None:
    kind, db = case
    restored = Database(f"sqlite:///{tmp_path / 'backup.sqlite'}", models=Base)
    restored.create_all()
    work(restored, "sync", lambda session: session.add_all([Note(text="a"), Note(text="b")]))
    restored.close()
    with TestClient(app_of(db, kind, add)) as client:
        assert client.get("/notes").json() == 0
        for part in ("-wal", "-shm"):
            Path(f"{file}{part}").unlink(missing_ok=True)
        (tmp_path / "backup.sqlite").replace(file)
        assert client.get("/notes").json() == 2


def test_a_closed_database_begins_anew_with_a_new_file(case: tuple[Kind, Database], file: Path) -> None:
    kind, db = case
    work(db, kind, add)
    db.close()
    for part in ("", "-wal", "-shm"):
        Path(f"{file}{part}").unlink(missing_ok=True)
    db.create_all()
    assert work(db, kind, count) == 0


def test_a_full_disk_is_503_and_stores_nothing_until_there_is_room(case: tuple[Kind, Database]) -> None:
    """SQLite's own limit of pages stands for the disk's end: the error is the same SQLITE_FULL."""
    kind, db = case
    room = {"pages": 12}

    def handler(session: Session) -> None:
        for _ in range(300):
            add(session)
        session.flush()

    app = app_of(db, kind, handler)

    async def listen() -> None:
        for engine in (db.engine, db.async_engine.sync_engine):
            event.listen(engine, "begin", limit)

    def limit(connection: object) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {room['pages']}")  # type: ignore[attr-defined]

    app.router.on_startup.append(listen)
    with TestClient(app) as client:
        for _ in range(3):
            answer = client.post("/")
            assert (answer.status_code, answer.json()["code"]) == (503, "out-of-resources")
            assert "retry-after" in answer.headers
            assert client.get("/notes").json() == 0
        room["pages"] = 100_000
        assert client.post("/").status_code == 200
        assert client.get("/notes").json() == 300
    assert db.stats().in_use == 0
