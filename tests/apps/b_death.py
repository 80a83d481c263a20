"""A service that writes while its database dies, comes back and moves away.

It starts without the database. The mark of a request is stored, so that a test can tell whose row is there.
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from fastapi_database import Database


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


db = Database(models=Base)
app = FastAPI()
db.install(app)
app.include_router(db.health(), prefix="/health")
PAUSE = text("SELECT 1" if os.environ.get("DATABASE_URL", "").startswith("sqlite") else "SELECT pg_sleep(0.02)")
SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]


@app.post("/sync/notes/{mark}", status_code=201)
def add(mark: str, session: SyncSession, seconds: float = 0.0) -> None:
    session.add(Note(text=mark))
    session.flush()
    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds}) if seconds else session.execute(PAUSE)


@app.post("/async/notes/{mark}", status_code=201)
async def add_in_a_task(mark: str, session: TaskSession, seconds: float = 0.0) -> None:
    session.add(Note(text=mark))
    await session.flush()
    statement, values = (text("SELECT pg_sleep(:seconds)"), {"seconds": seconds}) if seconds else (PAUSE, {})
    await session.execute(statement, values)


@app.get("/sync/one")
def one(session: SyncSession) -> int | None:
    return session.scalar(select(1))


@app.get("/async/one")
async def one_in_a_task(session: TaskSession) -> int | None:
    return await session.scalar(select(1))
