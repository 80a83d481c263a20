"""C3: a database in memory is one for all threads, tasks and requests of its `Database`, and for nobody else."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router, work
from fastapi_database import Database

URLS = ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://", "sqlite+aiosqlite:///:memory:"]


class Base(DeclarativeBase):
    pass


class Step(Base):
    __tablename__ = "steps"
    id: Mapped[int] = mapped_column(primary_key=True)


def add(session: Session) -> None:
    session.add(Step())


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Step)) or 0


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("create", ["create_all", "acreate_all"])
def test_c3_threads_tasks_and_loops_share_one_database(url: str, create: str) -> None:
    db = Database(url, models=Base)
    if create == "create_all":
        db.create_all()
    else:
        asyncio.run(db.acreate_all())
    work(db, "sync", add)
    work(db, "async", add)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: work(db, "sync", count), range(20))) == [2] * 20
        list(threads.map(lambda _: work(db, "sync", add), range(20)))

    async def tasks() -> list[int]:
        async def one() -> int:
            async with db.begin() as session:
                return await session.run_sync(count)

        return await asyncio.gather(*(one() for _ in range(20)))

    assert asyncio.run(tasks()) == [22] * 20
    with db.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM steps")) == 22
    db.close()


@pytest.mark.parametrize("name", ROUTERS)
def test_c3_every_request_sees_the_tables(name: str) -> None:
    db = Database("sqlite://", models=Base)
    db.create_all()
    app, routes = FastAPI(), router(name)
    db.install(app)
    for kind in KINDS:
        routes.add_api_route(f"/{kind}", endpoint(db, kind, add), methods=["POST"])
        routes.add_api_route(f"/{kind}", endpoint(db, kind, count), methods=["GET"])
    app.include_router(routes)

    async def requests() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            paths = [f"/{kind}" for kind in KINDS] * 30
            posted = await asyncio.gather(*(client.post(path) for path in paths))
            assert {answer.status_code for answer in posted} == {200}
            read = await asyncio.gather(*(client.get(path) for path in paths))
            assert {answer.text for answer in read} == {"60"}

    asyncio.run(requests())
    db.close()


@pytest.mark.parametrize("kind", KINDS)
def test_c3_two_databases_never_see_each_other(kind: Kind) -> None:
    first, second = (Database("sqlite://", models=Base) for _ in range(2))
    first.create_all()
    work(first, kind, add)
    with pytest.raises(OperationalError, match="no such table"):
        work(second, kind, count)
    second.create_all()
    assert (work(first, kind, count), work(second, kind, count)) == (1, 0)
    first.close()
    second.close()


def test_c3_memory_outlives_the_lifespan_and_ends_with_close() -> None:
    from fastapi.testclient import TestClient

    db = Database("sqlite://", models=Base)
    db.create_all()
    app = FastAPI()
    db.install(app)
    app.add_api_route("/", endpoint(db, "async", count), methods=["GET"])
    work(db, "sync", add)
    for _ in range(2):  # an application that is tested starts and ends once per test
        with TestClient(app) as client:
            assert client.get("/").text == "1"
    assert work(db, "sync", count) == 1
    db.close()
    with pytest.raises(OperationalError, match="no such table"):
        work(db, "sync", count)
    db.close()


def test_c3_readers_and_writers_of_memory_wait_for_each_other_and_lose_nothing() -> None:
    db = Database("sqlite://", models=Base, queue_timeout=30)
    db.create_all()
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            work(db, "sync", count)

    async def tasks() -> None:
        async def one() -> None:
            async with db.begin() as session:
                await session.run_sync(add)

        await asyncio.gather(*(one() for _ in range(50)))

    with ThreadPoolExecutor(8) as threads:
        readers = [threads.submit(read_on) for _ in range(2)]
        writers = [threads.submit(work, db, "sync", add) for _ in range(50)]
        asyncio.run(tasks())
        for writer in writers:
            writer.result()
        stop.set()
        for reader in readers:
            reader.result()
    assert work(db, "sync", count) == 100
    db.close()
