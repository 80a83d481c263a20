"""Ours, asynchronous: `db.async_session` in `async def` endpoints, default settings."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bench.apps.model import LISTED, Base, User, UserIn, UserOut, database_url
from fastapi_database import Database

db = Database(database_url(), models=Base)
app = FastAPI()
db.install(app)

SessionDep = Annotated[AsyncSession, Depends(db.async_session)]


@app.get("/users", response_model=list[UserOut])
async def list_users(session: SessionDep) -> Sequence[User]:
    return (await session.scalars(select(User).order_by(User.id).limit(LISTED))).all()


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(user_id: int, session: SessionDep) -> User:
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(user: UserIn, session: SessionDep) -> User:
    row = User(name=user.name, email=user.email)
    session.add(row)
    return row
