"""A service whose statements take long, in every form: sync and async sessions, on both kinds of router."""

from typing import Annotated, Any

import fastapi
from fastapi import Depends, FastAPI
from sqlalchemy import Text, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.b_watch import Watch
from fastapi_database import APIRouter, Database


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
QUICK = "SELECT count(*) FROM notes"


def add_sync(router: fastapi.APIRouter) -> None:
    @router.get("/forever")
    def forever(session: SyncSession) -> Any:
        return session.scalar(text(FOREVER))

    @router.get("/quick")
    def quick(session: SyncSession) -> Any:
        return session.scalar(text(QUICK))

    @router.post("/locked", status_code=201)
    def locked(session: SyncSession) -> None:
        session.execute(text("UPDATE notes SET text = 'mine'"))


def add_async(router: fastapi.APIRouter) -> None:
    @router.get("/forever")
    async def forever(session: TaskSession) -> Any:
        return await session.scalar(text(FOREVER))

    @router.get("/quick")
    async def quick(session: TaskSession) -> Any:
        return await session.scalar(text(QUICK))

    @router.post("/locked", status_code=201)
    async def locked(session: TaskSession) -> None:
        await session.execute(text("UPDATE notes SET text = 'mine'"))


app = FastAPI()
db.install(app)
app.include_router(watch.router())
for add, session_kind in ((add_sync, "sync"), (add_async, "async")):
    for made, name_of_router in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
        add(made)
        app.include_router(made, prefix=f"/{session_kind}/{name_of_router}")
