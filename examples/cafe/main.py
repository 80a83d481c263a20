"""The web application: `uvicorn examples.cafe.main:app`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from .database import db
from .routers import me, users

STATIC = Path(__file__).with_name("static")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Make the tables that are missing; an application with data to keep runs migrations instead."""
    await db.acreate_all()
    yield


app = FastAPI(title="Café", lifespan=lifespan)
app.include_router(users.router)
app.include_router(me.router)
app.include_router(db.health(), prefix="/health")
app.mount("/static", StaticFiles(directory=STATIC), name="static")
db.install(app)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page where people add and rename users."""
    return FileResponse(STATIC / "index.html")
