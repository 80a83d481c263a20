"""fastapi-toolsets: the docstrings of `Database`, `Database.install` and `AsyncCrud` (db/core.py, crud/factory.py) and
its documentation's page "CRUD", version 6.0: one object as dependency, a CRUD class, default pool.

PostgreSQL only: its pages "DB" and "CRUD" say that it has been coded and tested for that alone.
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi_toolsets.crud import CrudFactory
from fastapi_toolsets.db import Database
from sqlalchemy.ext.asyncio import AsyncSession

from bench.apps.model import LISTED, User, UserIn, UserOut, async_url

db = Database(async_url().render_as_string(hide_password=False))
app = FastAPI()
db.install(app)

UserCrud = CrudFactory(model=User)
SessionDep = Annotated[AsyncSession, Depends(db)]


@app.get("/users", response_model=list[UserOut])
async def list_users(session: SessionDep) -> Sequence[User]:
    return await UserCrud.get_multi(session, order_by=User.id, limit=LISTED)


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(user_id: int, session: SessionDep) -> User:
    user = await UserCrud.get_or_none(session, [User.id == user_id])
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(user: UserIn, session: SessionDep) -> User:
    return await UserCrud.create(session, user)
