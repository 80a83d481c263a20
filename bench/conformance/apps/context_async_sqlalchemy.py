"""context-async-sqlalchemy 2.1.9.

Documentation, "Getting started" (`DBConnect`, `pool_pre_ping=True`, the lifespan, the FastAPI middleware,
`db_session(connection)`). Outside a request, in tasks and for each message of a socket:
`new_non_ctx_atomic_session`, "Usage examples", section "Multiple sessions and concurrent execution".
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from context_async_sqlalchemy import DBConnect, db_session, new_non_ctx_atomic_session
from context_async_sqlalchemy.fastapi_utils import add_fastapi_http_db_session_middleware
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from bench.conformance.apps.async_endpoints import add_endpoints
from bench.conformance.apps.model import POOL_OPTIONS, async_url


def create_engine(host: str) -> AsyncEngine:
    """Give the connection parameters; the host stands in the URL already."""
    return create_async_engine(async_url(), future=True, pool_pre_ping=True, **POOL_OPTIONS)


def create_session_maker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Give the session parameters."""
    return async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


connection = DBConnect(
    host="127.0.0.1",
    engine_creator=create_engine,
    session_maker_creator=create_session_maker,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, Any]:
    """Close the engine at the end."""
    yield
    await connection.close()


app = FastAPI(lifespan=lifespan)
add_fastapi_http_db_session_middleware(app)


async def session() -> AsyncSession:
    """Give what an endpoint asks for itself: a dependency only because all applications share their endpoints."""
    return await db_session(connection)


def own() -> Any:
    """Open a session without the context."""
    return new_non_ctx_atomic_session(connection)


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""

    async def read() -> None:
        async with own() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(read())


add_endpoints(app, session=session, save=AsyncSession.flush, own=own)
