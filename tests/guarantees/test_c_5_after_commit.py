"""C5: what was loaded stays readable after the commit, and a create costs one statement."""

import datetime
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from apps.c_cases import EVERY_DRIVER, ROUTERS, Kind, endpoint, opened, recorded, router, work
from fastapi_database import Database


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    points: Mapped[int] = mapped_column(server_default="7")
    since: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    orders: Mapped[list["Order"]] = relationship(back_populates="guest")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))
    guest: Mapped[Guest] = relationship(back_populates="orders")


class GuestIn(BaseModel):
    name: str


class GuestOut(BaseModel):
    id: int
    name: str
    points: int
    since: datetime.datetime


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return opened(request, Base)


@pytest.mark.parametrize("name", ROUTERS)
def test_c5_a_create_is_one_insert_returning_and_no_select(case: tuple[Kind, Database], name: str) -> None:
    kind, db = case
    app, routes = FastAPI(), router(name)
    db.install(app)

    # A plain router does not flush before it serialises: there the handler does.
    def create_guest(guest: GuestIn, session: Annotated[Session, Depends(db.session)]) -> Guest:
        row = Guest(name=guest.name)
        session.add(row)
        if name == "plain router":
            session.flush()
        return row

    async def create_guest_async(guest: GuestIn, session: Annotated[AsyncSession, Depends(db.async_session)]) -> Guest:
        row = Guest(name=guest.name)
        session.add(row)
        if name == "plain router":
            await session.flush()
        return row

    create = create_guest if kind == "sync" else create_guest_async
    routes.add_api_route("/", create, methods=["POST"], status_code=201, response_model=GuestOut)
    app.include_router(routes)
    with TestClient(app) as client:
        client.post("/", json={"name": "warm up"})
        with recorded() as statements:
            answer = client.post("/", json={"name": "John Doe"})
    body = answer.json()
    assert (answer.status_code, body["id"], body["name"], body["points"]) == (201, 2, "John Doe", 7)
    (insert,) = statements
    assert insert.startswith("INSERT INTO guests")
    assert "RETURNING" in insert


def test_c5_loaded_attributes_and_relationships_stay_readable_after_the_unit(case: tuple[Kind, Database]) -> None:
    kind, db = case

    def create(session: Session) -> Guest:
        guest = Guest(name="John Doe", orders=[Order(), Order()])
        session.add(guest)
        return guest

    def load(session: Session) -> Guest:
        return session.scalars(select(Guest).options(selectinload(Guest.orders))).one()

    created = work(db, kind, create)
    loaded = work(db, kind, load)
    changed = work(db, kind, rename)
    with recorded() as statements:
        assert (created.id, created.name, created.points) == (1, "John Doe", 7)
        assert created.since.tzinfo is None
        assert [order.id for order in created.orders] == [1, 2]
        assert (loaded.name, loaded.points, len(loaded.orders)) == ("John Doe", 7, 2)
        assert (changed.name, changed.points) == ("Jane Doe", 7)
    assert statements == []


def test_c5_a_commit_in_the_handler_expires_nothing(case: tuple[Kind, Database]) -> None:
    kind, db = case
    app = FastAPI()
    db.install(app)
    after_commit: list[int] = []

    def commit_and_read(session: Session) -> str:
        guest = Guest(name="John Doe")
        session.add(guest)
        session.commit()
        with recorded() as statements:
            read = f"{guest.id} {guest.name} {guest.points}"
        after_commit.append(len(statements))
        return read

    app.add_api_route("/", endpoint(db, kind, commit_and_read), methods=["POST"])
    with TestClient(app) as client:
        assert client.post("/").json() == "1 John Doe 7"
    assert after_commit == [0]


@pytest.mark.parametrize("name", ROUTERS)
def test_c5_a_background_task_reads_what_the_request_loaded(case: tuple[Kind, Database], name: str) -> None:
    kind, db = case
    work(db, kind, lambda session: session.add(Guest(name="John Doe")))
    app, routes = FastAPI(), router(name)
    db.install(app)
    mails: list[tuple[str, int]] = []

    def send_mail(guest: Guest) -> None:
        with recorded() as statements:
            mails.append((guest.name, len(statements)))

    def remind(tasks: BackgroundTasks, session: Annotated[Session, Depends(db.session)]) -> None:
        tasks.add_task(send_mail, session.get_one(Guest, 1))

    async def remind_async(tasks: BackgroundTasks, session: Annotated[AsyncSession, Depends(db.async_session)]) -> None:
        tasks.add_task(send_mail, await session.get_one(Guest, 1))

    chosen: Any = remind if kind == "sync" else remind_async
    routes.add_api_route("/", chosen, methods=["POST"])
    app.include_router(routes)
    with TestClient(app) as client:
        assert client.post("/").status_code == 200
    assert mails == [("John Doe", 0)]


def test_c5_expire_on_commit_gives_back_what_sqlalchemy_does(sqlite_url: str) -> None:
    db = Database(sqlite_url, models=Base, expire_on_commit=True)
    db.create_all()
    with db.begin() as session:
        guest = Guest(name="John Doe")
        session.add(guest)
        session.commit()
        with recorded() as statements:
            assert guest.name == "John Doe"
        assert len(statements) == 1
    db.close()


def rename(session: Session) -> Guest:
    guest = session.get_one(Guest, 1)
    guest.name = "Jane Doe"
    return guest
