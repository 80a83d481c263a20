"""Hand-written AsyncSession, the best practice: `expire_on_commit=False`, the endpoints commit, an own session for each
message of a socket.

SQLAlchemy 2.1, "Asynchronous I/O (asyncio)", sections "Synopsis - ORM" and "Preventing Implicit IO when Using
AsyncSession"; FastAPI, "Dependencies with yield".
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from bench.conformance.apps.async_endpoints import add_endpoints
from bench.conformance.apps.model import POOL_OPTIONS, async_url

engine = create_async_engine(async_url(), **POOL_OPTIONS)
new_session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    """Close the session in every case."""
    async with new_session() as session:
        yield session


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""

    async def read() -> None:
        async with new_session() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(read())


add_endpoints(app, session=get_session, save=AsyncSession.commit, own=new_session.begin)
