"""C7: it stays SQLAlchemy. What people wrote before they knew this library goes on to work."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
import sqlmodel
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import Column, ForeignKey, Integer, String, delete, event, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, async_object_session
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    ORMExecuteState,
    Session,
    declarative_base,
    object_session,
    relationship,
    with_loader_criteria,
)

from apps.c_cases import EVERY_DRIVER, ROUTERS, Kind, endpoint, opened, router, url_for, work
from fastapi_database import Database

Base: Any = declarative_base()


class Account(Base):
    """Written as before SQLAlchemy 1.4: no annotations, `Column`, `relationship` by name."""

    __tablename__ = "accounts"
    id = Column(Integer, primary_key=True)
    owner = Column(String(50), nullable=False)
    cents = Column(Integer, nullable=False, default=0)
    entries = relationship("Entry", back_populates="account", cascade="all, delete-orphan")

    @hybrid_property
    def euros(self) -> float:
        return self.cents / 100

    @euros.inplace.expression
    @classmethod
    def _euros(cls) -> Any:
        return cls.cents / 100.0


class Entry(AsyncAttrs, Base):
    __tablename__ = "entries"
    id = Column(Integer, primary_key=True)
    account_id = Column(Integer, ForeignKey("accounts.id"), nullable=False)
    account = relationship("Account", back_populates="entries")


class Hero(sqlmodel.SQLModel, table=True):
    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str = sqlmodel.Field(index=True)
    team_id: int | None = sqlmodel.Field(default=None, foreign_key="team.id")
    team: "Team" = sqlmodel.Relationship(back_populates="heroes")


class Team(sqlmodel.SQLModel, table=True):
    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str
    heroes: list[Hero] = sqlmodel.Relationship(back_populates="team")


class HeroOut(sqlmodel.SQLModel):
    name: str


class TeamOut(sqlmodel.SQLModel):
    id: int
    name: str
    heroes: list[HeroOut]


class AccountOut(BaseModel):
    owner: str
    euros: float


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    kind, db = opened(request, Base)
    work(db, kind, lambda session: session.add_all(Account(owner=f"o{n}", cents=n * 100) for n in (1, 2, 3)))
    return kind, db


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


@pytest.mark.parametrize("name", ROUTERS)
def test_c7_session_hooks_and_criteria_reach_every_session(case: tuple[Kind, Database], name: str) -> None:
    kind, db = case
    app, routes = FastAPI(), router(name)
    db.install(app)
    everyone = select(Account).order_by(Account.id)
    routes.add_api_route(
        "/", endpoint(db, kind, lambda session: session.scalars(everyone).all()), response_model=list[AccountOut]
    )
    app.include_router(routes)

    def not_the_first(state: ORMExecuteState) -> None:
        if state.is_select:
            state.statement = state.statement.options(with_loader_criteria(Account, Account.id > 1))

    criteria = everyone.options(with_loader_criteria(Account, lambda cls: cls.id < 3, include_aliases=True))
    assert len(work(db, kind, lambda session: session.scalars(criteria).all())) == 2
    with listening(Session, "do_orm_execute", not_the_first):
        with TestClient(app) as client:
            assert [row["owner"] for row in client.get("/").json()] == ["o2", "o3"]
        assert len(work(db, kind, lambda session: session.scalars(everyone).all())) == 2


def test_c7_session_events_fire_in_their_order(case: tuple[Kind, Database]) -> None:
    kind, db = case
    seen: list[str] = []
    names = ("after_begin", "before_flush", "after_flush", "before_commit", "after_commit", "after_rollback")

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    def fail(session: Session) -> None:
        session.add(Account(owner="never"))
        session.flush()
        raise LookupError

    hooks = [(Session, name, note(name)) for name in names]
    for hook in hooks:
        event.listen(*hook)
    try:
        work(db, kind, lambda session: session.add(Account(owner="new")))
        committed, seen[:] = list(seen), []
        with pytest.raises(LookupError):
            work(db, kind, fail)
    finally:
        for hook in hooks:
            event.remove(*hook)
    assert committed == ["before_commit", "before_flush", "after_begin", "after_flush", "after_commit"]
    assert seen == ["before_flush", "after_begin", "after_flush", "after_rollback"]


def test_c7_engine_events_fire_once_for_each_thing_that_happens(case: tuple[Kind, Database]) -> None:
    kind, db = case
    seen: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        def listen(*arguments: Any) -> None:
            if name != "before_cursor_execute" or not arguments[2].startswith("BEGIN"):
                seen[name] += 1

        return listen

    def attach(engine: Any) -> None:
        for name in ("before_cursor_execute", "begin", "commit", "rollback", "connect", "checkout", "checkin"):
            event.listen(engine, name, count(name))

    def read(session: Session) -> None:
        session.scalars(select(Account)).all()

    def fail(session: Session) -> None:
        read(session)
        raise LookupError

    if kind == "sync":
        db.close()  # a new engine has no connection yet
        attach(db.engine)
        work(db, kind, read)
        with pytest.raises(LookupError):
            work(db, kind, fail)
    else:

        async def units() -> None:
            attach(db.async_engine.sync_engine)
            async with db.begin() as session:
                await session.run_sync(read)
            with pytest.raises(LookupError):
                async with db.begin() as session:
                    await session.run_sync(fail)

        asyncio.run(units())
    assert seen == {
        "connect": 1,
        "checkout": 2,
        "checkin": 2,
        "begin": 2,
        "before_cursor_execute": 2,
        "commit": 1,
        "rollback": 1,
    }


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
            assert type(session) is AsyncSession
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


@pytest.mark.parametrize("name", ROUTERS)
def test_c7_sqlmodel_tables_and_answers(request: pytest.FixtureRequest, name: str) -> None:
    for number, (kind, driver) in enumerate(EVERY_DRIVER):
        db = Database(url_for(request, driver), models=sqlmodel.SQLModel)
        db.create_all()
        app, routes = FastAPI(), router(name)
        db.install(app)

        def create(team: Team, session: Annotated[Session, Depends(db.session)]) -> Team:
            session.add(team)
            session.flush()
            return team

        async def create_async(team: Team, session: Annotated[AsyncSession, Depends(db.async_session)]) -> Team:
            session.add(team)
            await session.flush()
            return team

        def teams(session: Session) -> Any:
            found = session.scalars(sqlmodel.select(Team).order_by(sqlmodel.col(Team.id))).all()
            return [team for team in found if team.heroes is not None]

        made: Any = create if kind == "sync" else create_async
        routes.add_api_route("/", made, methods=["POST"], response_model=Team)
        routes.add_api_route("/", endpoint(db, kind, teams), response_model=list[TeamOut])
        app.include_router(routes)
        with TestClient(app) as client:
            answer = client.post("/", json={"name": f"team {number}"})
            assert (answer.status_code, answer.json()["name"]) == (200, f"team {number}")
            identity = answer.json()["id"]
            work(db, kind, lambda session, identity=identity: session.add(Hero(name="h", team_id=identity)))
            found = [team for team in client.get("/").json() if team["id"] == identity]
            assert found == [{"id": identity, "name": f"team {number}", "heroes": [{"name": "h"}]}]
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


@contextmanager
def listening(target: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    event.listen(target, name, function)
    try:
        yield
    finally:
        event.remove(target, name, function)
