"""fastapi-toolsets 6.0.2: its `Database`, for PostgreSQL only.

Documentation, "DB" (`Database(url, ...)`, `db.install(app)`, `Depends(db)`), as in the docstring of
`fastapi_toolsets.db.core.Database`; "Exceptions" (`init_exceptions_handlers`). Outside a request: `db.begin()`.
"""

import asyncio

from fastapi import FastAPI
from fastapi_toolsets.db import Database
from fastapi_toolsets.exceptions import init_exceptions_handlers
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bench.conformance.apps.async_endpoints import add_endpoints
from bench.conformance.apps.model import POOL_OPTIONS, async_url

db = Database(async_url().render_as_string(hide_password=False), **POOL_OPTIONS)
app = FastAPI()
db.install(app)
init_exceptions_handlers(app)


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""

    async def read() -> None:
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(read())


add_endpoints(app, session=db, save=AsyncSession.flush, own=db.begin)
