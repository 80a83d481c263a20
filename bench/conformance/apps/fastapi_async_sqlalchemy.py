"""fastapi-async-sqlalchemy, the newest version that the Python of the run takes.

README, "Examples" (`SQLAlchemyMiddleware` with `engine_args`, `db.session`), and "Getting Started", section
"Configuring the engine" (`commit_on_exit=True`). Outside a request and for each message of a socket:
`async with db(commit_on_exit=True)`, "Sessions & Contexts", section "Outside a request".
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_async_sqlalchemy import SQLAlchemyMiddleware, db
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bench.conformance.apps.async_endpoints import add_endpoints
from bench.conformance.apps.model import POOL_OPTIONS, async_url

app = FastAPI()
app.add_middleware(SQLAlchemyMiddleware, db_url=async_url(), engine_args=dict(POOL_OPTIONS), commit_on_exit=True)


async def session() -> AsyncSession:
    """Give what an endpoint asks for itself: a dependency only because all applications share their endpoints."""
    return db.session


@asynccontextmanager
async def own() -> AsyncIterator[AsyncSession]:
    """Open a session outside the middleware's."""
    async with db(commit_on_exit=True):
        yield db.session


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""
    app.middleware_stack = app.build_middleware_stack()  # the engine is made by the middleware

    async def read() -> None:
        async with own() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(read())


add_endpoints(app, session=session, save=AsyncSession.flush, own=own)
