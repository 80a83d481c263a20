"""advanced-alchemy 1.12.0, its FastAPI extension.

Documentation, "FastAPI Integration", sections "Basic Setup" (`commit_mode="autocommit"`, `expire_on_commit=False`) and
"Dependency Injection" (`Depends(alchemy.provide_session())`). Outside a request: `alchemy.with_async_session()`, from
the extension's reference. The pool by `EngineConfig`, from the reference of its configuration.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from advanced_alchemy.extensions.fastapi import (
    AdvancedAlchemy,
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
)
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bench.conformance.apps.async_endpoints import add_endpoints
from bench.conformance.apps.model import POOL_OPTIONS, async_url

alchemy_config = SQLAlchemyAsyncConfig(
    connection_string=async_url().render_as_string(hide_password=False),
    engine_config=EngineConfig(**POOL_OPTIONS),
    session_config=AsyncSessionConfig(expire_on_commit=False),
    commit_mode="autocommit",
)
app = FastAPI()
alchemy = AdvancedAlchemy(config=alchemy_config, app=app)


@asynccontextmanager
async def own() -> AsyncIterator[AsyncSession]:
    """Commit by hand: `commit_mode` is about requests."""
    async with alchemy.with_async_session() as session:
        yield session
        await session.commit()


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""

    async def read() -> None:
        async with own() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(read())


add_endpoints(app, session=alchemy.provide_session(), save=AsyncSession.flush, own=own)
