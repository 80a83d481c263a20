"""C7: it stays SQLAlchemy. What people wrote before they knew this library goes on to work."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Column, Integer, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_object_session
from sqlalchemy.orm import Session, declarative_base, object_session

from apps.c_accounts import Account, AccountOut, Base, Entry, accounts
from apps.c_cases import EVERY_DRIVER, ROUTERS, Kind, endpoint, router, url_for, work
from fastapi_database import Database


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return accounts(request)


def test_c7_select_query_and_text_read_the_same(case: tuple[Kind, Database]) -> None:
    kind, db = case

    def read(session: Session) -> list[Any]:
        return [
            session.scalars(select(Account.owner).order_by(Account.id)).all(),
            [row.owner for row in session.query(Account).order_by(Account.id)],
            session.scalars(text("SELECT owner FROM accounts ORDER BY id")).all(),
            session.connection().exec_driver_sql("SELECT owner FROM accounts ORDER BY id").scalars().all(),
            session.execute(select(Account.__table__.c.owner).order_by(Account.__table__.c.id)).scalars().all(),
        ]

    assert work(db, kind, read) == [["o1", "o2", "o3"]] * 5
    one = work(db, kind, lambda session: session.query(Account).filter_by(owner="o2").one())
    assert (one.id, one.euros) == (2, 2.0)


def test_c7_writing_in_every_style_is_stored(case: tuple[Kind, Database]) -> None:
    kind, db = case

    def write(session: Session) -> None:
        session.add(Account(id=10, owner="add"))
        session.execute(insert(Account), [{"id": 11, "owner": "bulk"}, {"id": 12, "owner": "bulk"}])
        made = session.scalars(insert(Account).returning(Account), [{"id": 13, "owner": "returning"}]).one()
        made.cents = 5
        session.bulk_insert_mappings(Account, [{"id": 14, "owner": "mapping"}])
        session.execute(text("INSERT INTO accounts (id, owner, cents) VALUES (:id, 'text', 0)"), {"id": 15})
        session.execute(update(Account).where(Account.id == 1).values(cents=Account.cents + 1))
        session.execute(delete(Account).where(Account.id == 2))
        session.query(Account).filter(Account.id == 3).delete()
        session.merge(Account(id=1, owner="merged", cents=101))

    work(db, kind, write)
    rows = work(db, kind, lambda session: session.execute(select(Account.id, Account.owner).order_by(Account.id)).all())
    assert [tuple(row) for row in rows] == [
        (1, "merged"),
        (10, "add"),
        (11, "bulk"),
        (12, "bulk"),
        (13, "returning"),
        (14, "mapping"),
        (15, "text"),
    ]
    assert work(db, kind, lambda session: session.get(Account, 13).cents) == 5


def test_c7_cascades_and_orphans_follow_the_mapping(case: tuple[Kind, Database]) -> None:
    kind, db = case

    def fill(session: Session) -> None:
        first, second = session.get(Account, 1), session.get(Account, 2)
        first.entries.extend([Entry(), Entry()])
        second.entries.append(Entry())

    def remove(session: Session) -> None:
        session.delete(session.get(Account, 1))
        second = session.get(Account, 2)
        second.entries.clear()

    count = select(func.count()).select_from(Entry)
    work(db, kind, fill)
    assert work(db, kind, lambda session: session.scalar(count)) == 3
    work(db, kind, remove)
    assert work(db, kind, lambda session: session.scalar(count)) == 0


@pytest.mark.parametrize("name", ROUTERS)
def test_c7_hybrid_properties_work_in_queries_and_answers(case: tuple[Kind, Database], name: str) -> None:
    kind, db = case
    app, routes = FastAPI(), router(name)
    db.install(app)
    rich = select(Account).where(Account.euros >= 2).order_by(Account.euros)
    routes.add_api_route(
        "/", endpoint(db, kind, lambda session: session.scalars(rich).all()), response_model=list[AccountOut]
    )
    app.include_router(routes)
    with TestClient(app) as client:
        assert client.get("/").json() == [{"owner": "o2", "euros": 2.0}, {"owner": "o3", "euros": 3.0}]


def test_c7_an_object_knows_its_session_and_a_savepoint_its_outer_transaction(case: tuple[Kind, Database]) -> None:
    kind, db = case

    def look(session: Session) -> None:
        account = session.get_one(Account, 1)
        assert object_session(account) is session
        with session.begin_nested() as savepoint:
            assert savepoint.parent is session.get_transaction()
        with session.no_autoflush:
            account.cents = 7
            assert account in session.dirty
        session.refresh(account)
        assert account.cents == 100
        session.expunge(account)
        assert object_session(account) is None

    work(db, kind, look)


@pytest.mark.parametrize("driver", [driver for kind, driver in EVERY_DRIVER if kind == "async"])
def test_c7_the_async_session_has_all_of_its_methods(request: pytest.FixtureRequest, driver: str) -> None:
    db = Database(url_for(request, driver), models=Base)
    db.create_all()

    async def use() -> None:
        async with db.begin() as session:
            assert isinstance(session, AsyncSession)
            session.add(Account(id=1, owner="o1", entries=[Entry(), Entry()]))
            await session.flush()
            entry = (await session.scalars(select(Entry).limit(1))).one()
            assert async_object_session(entry) is session
            session.expunge_all()
            entry = (await session.scalars(select(Entry).limit(1))).one()
            account = await entry.awaitable_attrs.account
            assert account is await session.get(Account, 1) is await session.get_one(Account, 1)
            await session.refresh(account, ["entries"])
            assert len(account.entries) == 2
            async for row in await session.stream_scalars(select(Entry.id).order_by(Entry.id)):
                assert row in {1, 2}
            streamed = await session.stream(select(Entry.id))
            assert len(await streamed.all()) == 2
            async with session.begin_nested():
                await session.execute(insert(Account).values(id=2, owner="o2"))
            connection = await session.connection()
            assert await connection.scalar(select(func.count()).select_from(Account)) == 2
            assert (await session.merge(Account(id=2, owner="x"))).owner == "x"
            await session.delete(await session.get_one(Account, 2))
            assert session.in_transaction()
            await session.commit()
            assert await session.scalar(select(func.count()).select_from(Account)) == 1
            await session.rollback()

    asyncio.run(use())
    db.close()


def test_c7_several_metadata_are_created_together(sqlite_url: str) -> None:
    other: Any = declarative_base()

    class Note(other):
        __tablename__ = "notes"
        id = Column(Integer, primary_key=True)

    db = Database(sqlite_url, models=[Base, other.metadata])
    db.create_all()
    db.create_all()  # what exists is left as it is
    asyncio.run(db.acreate_all())
    work(db, "sync", lambda session: session.add_all([Account(owner="o"), Note()]))
    db.close()


def test_c7_the_engine_serves_sqlalchemys_own_tools(case: tuple[Kind, Database]) -> None:
    """Inspection, reflection, Core without a session, a session of the application's own on our engine."""
    import sqlalchemy

    _, db = case
    assert {"accounts", "entries"} <= set(sqlalchemy.inspect(db.engine).get_table_names())
    reflected = sqlalchemy.MetaData()
    reflected.reflect(db.engine)
    with db.engine.begin() as connection:
        connection.execute(reflected.tables["accounts"].insert().values(owner="core", cents=1))
    with Session(db.engine) as session:
        assert session.scalar(select(func.count()).select_from(Account)) == 4

    async def core() -> int:
        async with db.async_engine.begin() as connection:
            await connection.execute(insert(Account).values(owner="async core"))
        async with AsyncSession(db.async_engine) as session:
            return await session.scalar(select(func.count()).select_from(Account)) or 0

    assert asyncio.run(core()) == 5
