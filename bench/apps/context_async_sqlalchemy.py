"""context-async-sqlalchemy: its documentation's page "Getting started" (docs_sources/docs/getting_started.md), version
2.1: the middleware commits and closes, `db_session(connection)` gives the session; `pool_pre_ping=True` is the page's.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from context_async_sqlalchemy import DBConnect, db_session
from context_async_sqlalchemy.fastapi_utils import add_fastapi_http_db_session_middleware
from fastapi import FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from bench.apps.model import LISTED, User, UserIn, UserOut, async_url


def create_engine(host: str) -> AsyncEngine:
    """Make the engine, as the page does; the URL names the host already."""
    return create_async_engine(async_url(), pool_pre_ping=True)


def create_session_maker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Make the sessions, as the page does."""
    return async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


connection = DBConnect(host="127.0.0.1", engine_creator=create_engine, session_maker_creator=create_session_maker)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Close the engine at the end."""
    yield
    await connection.close()


app = FastAPI(lifespan=lifespan)
add_fastapi_http_db_session_middleware(app)


@app.get("/users", response_model=list[UserOut])
async def list_users() -> Sequence[User]:
    session = await db_session(connection)
    return (await session.scalars(select(User).order_by(User.id).limit(LISTED))).all()


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(user_id: int) -> User:
    session = await db_session(connection)
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(user: UserIn) -> User:
    session = await db_session(connection)
    row = User(name=user.name, email=user.email)
    session.add(row)
    await session.flush()
    return row
