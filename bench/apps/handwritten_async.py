"""AsyncSession written by hand: an `async def` dependency, endpoints that commit themselves, default pool."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from bench.apps.model import LISTED, User, UserIn, UserOut, async_url

engine = create_async_engine(async_url())
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def get_db() -> AsyncIterator[AsyncSession]:
    """The asynchronous twin of the copied lines."""
    async with SessionLocal() as db:
        yield db


SessionDep = Annotated[AsyncSession, Depends(get_db)]


@app.get("/users", response_model=list[UserOut])
async def list_users(db: SessionDep) -> Sequence[User]:
    return (await db.scalars(select(User).order_by(User.id).limit(LISTED))).all()


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(user_id: int, db: SessionDep) -> User:
    user = await db.get(User, user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(user: UserIn, db: SessionDep) -> User:
    row = User(name=user.name, email=user.email)
    db.add(row)
    await db.commit()
    return row
