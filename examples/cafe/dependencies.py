"""The three things that endpoints ask for most: the session, who is calling, and the settings.

Whoever asks for the session during a request gets the same one. So the user that authentication loads
belongs to the session of the endpoint: change an attribute, and it is saved when the request is done.

A `def` endpoint takes the names without `Async`, an `async def` endpoint those with it; one request never
uses both kinds, because they are two connections and two transactions.
"""

from typing import Annotated

from fastapi import Depends, HTTPException, Path
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from .database import db
from .models import User
from .settings import Settings, get_settings
from .tokens import TOKEN_HEADER, hash_token

SettingsDep = Annotated[Settings, Depends(get_settings)]
SessionDep = Annotated[Session, Depends(db.session)]
AsyncSessionDep = Annotated[AsyncSession, Depends(db.async_session)]

UserId = Annotated[int, Path(ge=1, le=2**31 - 1)]  # what the column of PostgreSQL can hold

# Answers 401 by itself when the header `Authorization: Bearer ...` is missing, and adds the button to /docs.
bearer = HTTPBearer(description=f"The token from the header `{TOKEN_HEADER}` of `POST /users`.")
Credentials = Annotated[HTTPAuthorizationCredentials, Depends(bearer)]


def current_user(session: SessionDep, credentials: Credentials) -> User:
    """Authenticate the caller of a `def` endpoint."""
    return _known(session.scalar(select(User).where(_has_token(credentials))))


async def current_user_async(session: AsyncSessionDep, credentials: Credentials) -> User:
    """Authenticate the caller of an `async def` endpoint."""
    return _known(await session.scalar(select(User).where(_has_token(credentials))))


CurrentUser = Annotated[User, Depends(current_user)]
AsyncCurrentUser = Annotated[User, Depends(current_user_async)]


def own_user(user_id: UserId, user: CurrentUser) -> User:
    """Let a caller through only to themselves: what `/users/{user_id}` names must be who is calling."""
    if user.id != user_id:
        raise HTTPException(403, "This token belongs to another user.")
    return user


OwnUser = Annotated[User, Depends(own_user)]


def _has_token(credentials: HTTPAuthorizationCredentials) -> ColumnElement[bool]:
    return User.token_hash == hash_token(credentials.credentials)


def _known(user: User | None) -> User:
    if user is None:
        raise HTTPException(
            401,
            "This token is not known, or not valid any more.",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    return user
