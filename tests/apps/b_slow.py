"""A service whose statements take long, in every form: sync and async sessions, on both kinds of router."""

import asyncio
import time
from typing import Annotated, Any

import fastapi
from fastapi import Depends, FastAPI, Request
from sqlalchemy import Text, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.b_stacked import stack
from apps.b_watch import Watch
from fastapi_database import APIRouter, Database, transaction


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)


db = Database(models=Base)
db.create_all()
db.close()
watch = Watch(db)
SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]

# A statement that computes for a minute or more where nobody stops it.
FOREVER = {
    "postgresql": "SELECT pg_sleep(60)",
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000000000) "
    "SELECT count(*) FROM c",
}[db.engine.dialect.name]
SECOND = {
    "postgresql": "SELECT pg_sleep(1)",
    "sqlite": FOREVER.replace("2000000000", "1500000"),
}[db.engine.dialect.name]
QUICK = "SELECT count(*) FROM notes"


def add_sync(router: fastapi.APIRouter) -> None:
    @router.get("/forever/{mark}")
    def forever(mark: str, session: SyncSession) -> Any:
        watch.reach(f"begun {mark}")
        return session.scalar(text(FOREVER))

    @router.get("/quick")
    def quick(session: SyncSession) -> Any:
        return session.scalar(text(QUICK))

    @router.post("/locked", status_code=201)
    def locked(session: SyncSession) -> None:
        session.execute(text("UPDATE notes SET text = 'mine'"))

    @router.post("/second/{mark}", status_code=201)
    def second(mark: str, session: SyncSession) -> None:
        watch.reach(f"begun {mark}")
        session.add(Note(text=mark))
        session.execute(text(SECOND))

    @router.get("/stubborn/{mark}")
    def stubborn(mark: str, session: SyncSession) -> None:
        """Go on whatever happens, in a GET that writes."""
        watch.reach(f"begun {mark}")
        outcomes: list[str] = []
        for attempt in (
            lambda: session.execute(text(FOREVER)),
            lambda: session.execute(text(QUICK)),
            lambda: (session.add(Note(text=mark)), session.commit()),
        ):
            try:
                attempt()
            except Exception as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("worked")
        watch.reach(mark, outcomes)

    @router.get("/seconds")
    @transaction(timeout=1.5)
    def seconds(session: SyncSession) -> None:
        session.execute(text(QUICK))
        for _ in range(10):
            session.execute(text(SECOND))

    @router.get("/long")
    @transaction(timeout=60)
    def long(session: SyncSession) -> None:
        session.execute(text(SECOND))

    @router.post("/late/{mark}")
    @transaction(timeout=0.5)
    def late(mark: str, session: SyncSession) -> None:
        session.add(Note(text=mark))
        session.flush()
        time.sleep(0.7)

    @router.post("/begin/{mark}")
    def begin(mark: str) -> None:
        with db.begin(timeout=0.5) as own:
            own.add(Note(text=mark))
            own.execute(text(FOREVER))


def add_async(router: fastapi.APIRouter) -> None:
    @router.get("/forever/{mark}")
    async def forever(mark: str, session: TaskSession) -> Any:
        watch.reach(f"begun {mark}")
        return await session.scalar(text(FOREVER))

    @router.get("/quick")
    async def quick(session: TaskSession) -> Any:
        return await session.scalar(text(QUICK))

    @router.post("/locked", status_code=201)
    async def locked(session: TaskSession) -> None:
        await session.execute(text("UPDATE notes SET text = 'mine'"))

    @router.post("/second/{mark}", status_code=201)
    async def second(mark: str, session: TaskSession) -> None:
        watch.reach(f"begun {mark}")
        session.add(Note(text=mark))
        await session.execute(text(SECOND))

    @router.get("/stubborn/{mark}")
    async def stubborn(mark: str, session: TaskSession) -> None:
        """Go on whatever happens, in a GET that writes."""
        watch.reach(f"begun {mark}")
        outcomes: list[str] = []

        async def write() -> None:
            session.add(Note(text=mark))
            await session.commit()

        for attempt in (
            lambda: session.execute(text(FOREVER)),
            lambda: session.execute(text(QUICK)),
            write,
        ):
            try:
                await attempt()
            except Exception as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("worked")
        watch.reach(mark, outcomes)

    @router.get("/seconds")
    @transaction(timeout=1.5)
    async def seconds(session: TaskSession) -> None:
        await session.execute(text(QUICK))
        for _ in range(10):
            await session.execute(text(SECOND))

    @router.get("/long")
    @transaction(timeout=60)
    async def long(session: TaskSession) -> None:
        await session.execute(text(SECOND))

    @router.post("/late/{mark}")
    @transaction(timeout=0.5)
    async def late(mark: str, session: TaskSession) -> None:
        session.add(Note(text=mark))
        await session.flush()
        await asyncio.sleep(0.7)

    @router.post("/begin/{mark}")
    async def begin(mark: str) -> None:
        async with db.begin(timeout=0.5) as own:
            own.add(Note(text=mark))
            await own.execute(text(FOREVER))

    @router.get("/asks/{mark}")
    async def asks(mark: str, request: Request, session: TaskSession) -> None:
        """Look for the client itself, as applications do."""
        watch.reach(f"begun {mark}")
        await session.execute(text(QUICK))
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
        watch.reach(mark, "seen")

    @router.get("/body")
    async def body(request: Request, session: TaskSession) -> str:
        """Read the body long after the client began to be watched."""
        await session.execute(text(QUICK))
        await asyncio.sleep(1)
        return (await request.body()).decode()


app = FastAPI()
db.install(app)
stack(app)
app.include_router(watch.router())
for add, session_kind in ((add_sync, "sync"), (add_async, "async")):
    for made, name_of_router in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
        add(made)
        app.include_router(made, prefix=f"/{session_kind}/{name_of_router}")
