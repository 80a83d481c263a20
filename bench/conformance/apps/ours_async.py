"""Ours with async sessions: `Depends(db.async_session)` in `async def` endpoints.

Outside a request and for each message of a socket: `db.begin()`, reference "Which session where".
"""

import asyncio

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bench.conformance.apps.async_endpoints import add_endpoints
from bench.conformance.apps.model import POOL, WAIT, Base, database_url
from fastapi_database import Database

db = Database(database_url(), models=Base, max_connections=POOL, queue_timeout=WAIT)
app = FastAPI()
db.install(app)
app.include_router(db.health())


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""

    async def read() -> None:
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(read())


add_endpoints(app, session=db.async_session, save=AsyncSession.flush, own=db.begin)
