"""Ours under overload: a statement of WORK seconds, five connections; the settings come from the environment."""

from os import environ
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from bench.apps.model import database_url
from fastapi_database import Database

WORK = text(f"SELECT pg_sleep({float(environ.get('WORK', '0.02'))})")

db = Database(
    database_url(),
    max_connections=5,
    statement_timeout=0,
    max_waiting=int(environ.get("MAX_WAITING", "1000")),
)
app = FastAPI()
db.install(app)


@app.get("/sync")
def work(session: Annotated[Session, Depends(db.session)]) -> dict[str, bool]:
    session.execute(WORK)
    return {"ok": True}


@app.get("/async")
async def work_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> dict[str, bool]:
    await session.execute(WORK)
    return {"ok": True}


@app.get("/nothing")
async def nothing() -> dict[str, bool]:
    return {"ok": True}
