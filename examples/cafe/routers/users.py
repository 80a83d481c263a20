"""Users, with `def` endpoints and the sync session.

No endpoint commits. An answer below 400 is committed before the client reads it; an error undoes everything.
"""

from collections.abc import Sequence

from fastapi import HTTPException, Response
from sqlalchemy import select

from fastapi_database import APIRouter

from ..dependencies import OwnUser, SessionDep, SettingsDep, UserId
from ..models import User
from ..schemas import UserIn, UserOut
from ..tokens import TOKEN_HEADER, give_token

router = APIRouter(prefix="/users", tags=["users"])

SHOWS_TOKEN = {"headers": {TOKEN_HEADER: {"description": "The token, shown this once.", "schema": {"type": "string"}}}}


@router.post("", status_code=201, response_model=UserOut, responses={201: SHOWS_TOKEN})
def create_user(body: UserIn, response: Response, session: SessionDep, settings: SettingsDep) -> User:
    """Add a user. The answer carries their token in the header `Bearer-Token`, this once."""
    if not settings.registration_open:
        raise HTTPException(403, "The café takes no new users at the moment.")
    user = User(name=body.name)
    give_token(user, response)
    session.add(user)
    return user


@router.get("", response_model=list[UserOut])
def list_users(session: SessionDep) -> Sequence[User]:
    """List all users, oldest first."""
    return session.scalars(select(User).order_by(User.id)).all()


@router.get("/{user_id}", response_model=UserOut)
def read_user(user_id: UserId, session: SessionDep) -> User:
    """Show one user."""
    user = session.get(User, user_id)
    if user is None:
        raise HTTPException(404, f"There is no user {user_id}.")
    return user


@router.patch("/{user_id}", response_model=UserOut)
def rename_user(body: UserIn, user: OwnUser) -> User:
    """Rename yourself."""
    user.name = body.name
    return user


@router.delete("/{user_id}", status_code=204)
def delete_user(user: OwnUser, session: SessionDep) -> None:
    """Delete yourself; the token goes with you."""
    session.delete(user)
