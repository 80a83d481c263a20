"""A service that is ended in the middle of its work: writes that take their time, and streams without an end.

The mark of a write is stored, so that a test can tell whose row is there.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.sse import EventSourceResponse
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.notes import Base, Note
from fastapi_database import Database

db = Database(models=Base)
db.create_all()
app = FastAPI()
db.install(app)
PAUSE = text("SELECT 1" if os.environ["DATABASE_URL"].startswith("sqlite") else "SELECT pg_sleep(0.02)")
begun: list[str] = []


async def note_begun(mark: str) -> None:
    begun.append(mark)


@app.post("/sync/notes/{mark}", status_code=201, dependencies=[Depends(note_begun)])
def write(mark: str, seconds: float, session: Annotated[Session, Depends(db.session)]) -> None:
    session.add(Note(text=mark))
    session.flush()
    time.sleep(seconds)


@app.post("/async/notes/{mark}", status_code=201, dependencies=[Depends(note_begun)])
async def write_in_a_task(
    mark: str, seconds: float, session: Annotated[AsyncSession, Depends(db.async_session)]
) -> None:
    session.add(Note(text=mark))
    await session.flush()
    await asyncio.sleep(seconds)


@app.get("/begun")
async def begun_writes() -> int:
    """Count the writes that have come, and may wait for their turn."""
    return len(begun)


async def first(session: Annotated[AsyncSession, Depends(db.async_session)]) -> int | None:
    return await session.scalar(select(1))


@app.get("/sse", response_class=EventSourceResponse)
async def stream(start: Annotated[int, Depends(first)]) -> AsyncIterator[int]:
    for number in range(start, 1_000_000):
        yield number
        await asyncio.sleep(0.1)
        async with db.begin() as session:
            await session.execute(PAUSE)
