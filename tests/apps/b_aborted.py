"""A service whose clients go away in the middle, in every form: short statements, a write, streams and a socket.

What a client makes it do goes on for as long as the client stays, so that there is something to abort at any moment.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.b_stacked import stack
from apps.b_watch import Watch
from fastapi_database import APIRouter, Database


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


db = Database(models=Base)
db.create_all()
db.close()
watch = Watch(db)
SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]
SLOW = text(
    {
        "postgresql": "SELECT pg_sleep(0.03)",
        "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) "
        "SELECT count(*) FROM c",
    }[db.engine.dialect.name]
)
MANY = text("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 100000) SELECT x FROM c")
COUNT = select(func.count()).select_from(Note)
PAUSE = 0.005
MUCH, MANY_TIMES = "x" * 1_000_000, 100


def add_sync(router: fastapi.APIRouter) -> None:
    def counted(session: SyncSession) -> int:
        return session.scalar(COUNT) or 0

    async def count() -> int:
        def in_thread() -> int:
            with db.begin() as session:
                return session.scalar(COUNT) or 0

        return await asyncio.to_thread(in_thread)

    @router.get("/one")
    def one(session: SyncSession) -> int | None:
        return session.scalar(select(1))

    @router.get("/read")
    def read(session: SyncSession) -> None:
        for _ in range(2):
            session.execute(SLOW)

    @router.post("/write/{mark}")
    def write(mark: str, session: SyncSession) -> None:
        for _ in range(2):
            session.add(Note(text=mark))
            session.flush()
            session.execute(SLOW)

    add_streams(router, Depends(counted), count)


def add_async(router: fastapi.APIRouter) -> None:
    async def counted(session: TaskSession) -> int:
        return await session.scalar(COUNT) or 0

    async def count() -> int:
        async with db.begin() as session:
            return await session.scalar(COUNT) or 0

    @router.get("/one")
    async def one(session: TaskSession) -> int | None:
        return await session.scalar(select(1))

    @router.get("/read")
    async def read(session: TaskSession) -> None:
        for _ in range(2):
            await session.execute(SLOW)

    @router.post("/write/{mark}")
    async def write(mark: str, session: TaskSession) -> None:
        for _ in range(2):
            session.add(Note(text=mark))
            await session.flush()
            await session.execute(SLOW)

    @router.get("/cursor")
    async def cursor() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            async with db.begin() as session:
                result = await session.stream(MANY, execution_options={"yield_per": 100})
                async for rows in result.partitions():
                    yield f"{rows}\n"
                    await asyncio.sleep(PAUSE)

        return StreamingResponse(body())

    @router.get("/flood")
    async def flood() -> StreamingResponse:
        return StreamingResponse(floods())

    @router.get("/flood-of-events", response_class=EventSourceResponse)
    async def flood_of_events() -> AsyncIterator[str]:
        async for one in floods():
            yield one

    @router.get("/flood-of-own-events", response_class=EventSourceResponse)
    async def flood_of_own_events() -> AsyncIterator[str]:
        async with db.begin() as session:
            await session.execute(select(1))
            for _ in range(MANY_TIMES):
                yield MUCH

    add_streams(router, Depends(counted), count)


async def floods() -> AsyncIterator[str]:
    """Send more than anybody's buffers take, in the middle of a unit."""
    async with db.begin() as session:
        await session.execute(select(1))
        for _ in range(MANY_TIMES):
            yield MUCH


def add_streams(router: fastapi.APIRouter, counted: Any, count: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        while True:
            yield await count()
            await asyncio.sleep(PAUSE)

    @router.get("/stream", dependencies=[counted])
    async def stream() -> StreamingResponse:
        return StreamingResponse(f"{number}\n" async for number in numbers())

    @router.get("/sse", response_class=EventSourceResponse, dependencies=[counted])
    async def sse() -> AsyncIterator[int]:
        async for number in numbers():
            yield number

    @router.websocket("/socket", dependencies=[counted])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            async for number in numbers():
                await websocket.send_text(str(number))
        except WebSocketDisconnect:
            return


app = FastAPI()
db.install(app)
stack(app)
app.include_router(watch.router())
for add, session_kind in ((add_sync, "sync"), (add_async, "async")):
    for made, name_of_router in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
        add(made)
        app.include_router(made, prefix=f"/{session_kind}/{name_of_router}")
