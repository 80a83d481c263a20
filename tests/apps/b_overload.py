"""A service whose capacity the database limits: a statement of WORK seconds, in every form of session."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.b_watch import Watch
from fastapi_database import Database

WORK = text(f"SELECT pg_sleep({float(os.environ['WORK'])})")
PAGE = os.sysconf("SC_PAGE_SIZE")

db = Database()
watch = Watch(db)
app = FastAPI()
db.install(app)
app.include_router(watch.router())


@app.get("/sync")
def work(session: Annotated[Session, Depends(db.session)]) -> dict[str, bool]:
    session.execute(WORK)
    return {"ok": True}


@app.get("/async")
async def work_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> dict[str, bool]:
    await session.execute(WORK)
    return {"ok": True}


@app.get("/inside")
async def inside() -> dict[str, int]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    stats = db.stats()
    return {
        "tasks": len(asyncio.all_tasks()),
        "resident": resident,
        "in_use": stats.in_use,
        "waiting": stats.waiting,
    }
