"""A counter that is read, changed and written back: whatever two requests do at once, no step may get lost."""

import asyncio
import os
import threading
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import ROUTERS, router
from fastapi_database import Database


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


# A place for each of 60 clients, so that they meet in the database and not in our queue for places.
db = Database(os.environ["DATABASE_URL"], models=Base, max_connections=int(os.environ.get("PLACES", "10")))
app = FastAPI()
db.install(app)
let_go = threading.Event()
BETWEEN = 0.001  # seconds between reading and writing: long enough for another request to come between


def increment(session: Annotated[Session, Depends(db.session)]) -> int:
    counter = session.get_one(Counter, 1)
    threading.Event().wait(BETWEEN)
    counter.value += 1
    return counter.value


async def increment_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> int:
    counter = await session.get_one(Counter, 1)
    await asyncio.sleep(BETWEEN)
    counter.value += 1
    return counter.value


def value(session: Annotated[Session, Depends(db.session)]) -> int:
    return session.scalars(text("SELECT value FROM counter")).one()


async def value_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> int:
    return (await session.get_one(Counter, 1)).value


def hold(session: Annotated[Session, Depends(db.session)]) -> int:
    """Write, and keep the transaction open until `/let-go`."""
    counter = session.get_one(Counter, 1)
    counter.value += 1000
    session.flush()
    let_go.wait(30)
    return counter.value


@app.post("/let-go")
async def finish_holding() -> None:
    let_go.set()


for number, name in enumerate(ROUTERS):
    routes = router(name)
    for kind, write, read in (("sync", increment, value), ("async", increment_async, value_async)):
        routes.add_api_route(f"/{number}/{kind}", write, methods=["POST"])
        routes.add_api_route(f"/{number}/{kind}", read, methods=["GET"])
        # A GET that writes: SQLite can not promise it the lock, so it may fail; but it must not lose a step.
        routes.add_api_route(f"/{number}/{kind}/by-get", write, methods=["GET"])
    routes.add_api_route(f"/{number}/hold", hold, methods=["POST"])
    app.include_router(routes)
