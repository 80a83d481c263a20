"""fastapi-async-sqlalchemy: its README, "Examples" and "Request transactions and streaming responses", version 0.8
(0.7 before Python 3.12): the middleware, `db.session` in the endpoint, `commit_on_exit=True`, default pool.
"""

from collections.abc import Sequence

from fastapi import FastAPI, HTTPException
from fastapi_async_sqlalchemy import SQLAlchemyMiddleware, db
from sqlalchemy import select

from bench.apps.model import LISTED, User, UserIn, UserOut, async_url

app = FastAPI()
app.add_middleware(
    SQLAlchemyMiddleware,
    db_url=async_url().render_as_string(hide_password=False),
    commit_on_exit=True,
)


@app.get("/users", response_model=list[UserOut])
async def list_users() -> Sequence[User]:
    return (await db.session.scalars(select(User).order_by(User.id).limit(LISTED))).all()


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(user_id: int) -> User:
    user = await db.session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(user: UserIn) -> User:
    row = User(name=user.name, email=user.email)
    db.session.add(row)
    await db.session.flush()
    return row
