"""An application that uses its database while it is imported: a server may do that before it forks its workers."""

import asyncio
import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import event, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from fastapi_database import Database


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[int]


db = Database(models=Base)
opened: list[int] = []
ON_POSTGRESQL = db.engine.dialect.name == "postgresql"
BACKEND = text("SELECT pg_backend_pid()" if ON_POSTGRESQL else "SELECT 0")


@event.listens_for(db.engine, "connect")
def note(connection: object, record: object) -> None:
    opened.append(os.getpid())


async def use() -> None:
    async with db.begin() as session:
        await session.scalar(BACKEND)


db.create_all()
with db.begin() as session:
    PARENT = {"process": os.getpid(), "backend": session.scalar(BACKEND)}
asyncio.run(use())
app = FastAPI()
db.install(app)


@app.post("/sync", status_code=201)
def write(session: Annotated[Session, Depends(db.session)]) -> dict[str, Any]:
    session.add(Note(worker=os.getpid()))
    return {
        "worker": os.getpid(),
        "backend": session.scalar(BACKEND),
        "parent": PARENT,
        "opened": os.getpid() in opened,
    }


@app.post("/async", status_code=201)
async def write_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> dict[str, Any]:
    session.add(Note(worker=os.getpid()))
    return {"worker": os.getpid(), "backend": await session.scalar(BACKEND), "parent": PARENT}


@app.get("/notes")
def count(session: Annotated[Session, Depends(db.session)]) -> int | None:
    return session.scalar(select(func.count()).select_from(Note))
