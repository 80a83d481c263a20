"""advanced-alchemy, synchronous: the page "FastAPI Integration" of its documentation (see the asynchronous twin) with
the synchronous classes that its reference lists for FastAPI (docs/reference/extensions/fastapi), version 1.12.
"""

from collections.abc import Sequence
from typing import Annotated

from advanced_alchemy.extensions.fastapi import (
    AdvancedAlchemy,
    SQLAlchemySyncConfig,
    SyncSessionConfig,
    base,
    filters,
    repository,
    service,
)
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.orm import Mapped, mapped_column

from bench.apps.model import LISTED, UserIn, UserOut, sync_url

app = FastAPI()
alchemy = AdvancedAlchemy(
    config=SQLAlchemySyncConfig(
        connection_string=sync_url().render_as_string(hide_password=False),
        session_config=SyncSessionConfig(expire_on_commit=False),
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


class UserService(service.SQLAlchemySyncRepositoryService[UserModel]):
    """What the endpoints call."""

    class Repo(repository.SQLAlchemySyncRepository[UserModel]):
        """The repository below it."""

        model_type = UserModel

    repository_type = Repo


Users = Annotated[UserService, Depends(alchemy.provide_service(UserService))]


@app.get("/users", response_model=list[UserOut])
def list_users(users: Users) -> Sequence[UserModel]:
    return users.get_many(filters.LimitOffset(limit=LISTED, offset=0), filters.OrderBy("id"))


@app.get("/users/{user_id}", response_model=UserOut)
def get_user(users: Users, user_id: int) -> UserModel:
    user = users.get_one_or_none(id=user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return users.to_schema(user)


@app.post("/users", status_code=201, response_model=UserOut)
def create_user(users: Users, data: UserIn) -> UserModel:
    return users.to_schema(users.create(data))
