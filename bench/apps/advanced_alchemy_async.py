"""advanced-alchemy, asynchronous: its documentation's page "FastAPI Integration" (docs/usage/frameworks/fastapi.rst)
and its example examples/fastapi/fastapi_service.py, version 1.12.

A service over a repository, given to the endpoint by `provide_service`; `commit_mode="autocommit"`. One row or 404
is `get_one_or_none`, because its own NotFoundError answers 500 unless the application handles it.
"""

from collections.abc import Sequence
from typing import Annotated

from advanced_alchemy.extensions.fastapi import (
    AdvancedAlchemy,
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    base,
    filters,
    repository,
    service,
)
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.orm import Mapped, mapped_column

from bench.apps.model import LISTED, UserIn, UserOut, async_url

app = FastAPI()
alchemy = AdvancedAlchemy(
    config=SQLAlchemyAsyncConfig(
        connection_string=async_url().render_as_string(hide_password=False),
        session_config=AsyncSessionConfig(expire_on_commit=False),
        commit_mode="autocommit",
    ),
    app=app,
)


class UserModel(base.DefaultBase):
    """The one table."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]


class UserService(service.SQLAlchemyAsyncRepositoryService[UserModel]):
    """What the endpoints call."""

    class Repo(repository.SQLAlchemyAsyncRepository[UserModel]):
        """The repository below it."""

        model_type = UserModel

    repository_type = Repo


Users = Annotated[UserService, Depends(alchemy.provide_service(UserService))]


@app.get("/users", response_model=list[UserOut])
async def list_users(users: Users) -> Sequence[UserModel]:
    return await users.get_many(filters.LimitOffset(limit=LISTED, offset=0), filters.OrderBy("id"))


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(users: Users, user_id: int) -> UserModel:
    user = await users.get_one_or_none(id=user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return users.to_schema(user)


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(users: Users, data: UserIn) -> UserModel:
    return users.to_schema(await users.create(data))
