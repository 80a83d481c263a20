"""The caller themselves, with `async def` endpoints and the async session."""

from fastapi import Response

from fastapi_database import APIRouter

from ..dependencies import AsyncCurrentUser
from ..models import User
from ..schemas import UserOut
from ..tokens import give_token

router = APIRouter(prefix="/me", tags=["me"])


@router.get("", response_model=UserOut)
async def read_me(user: AsyncCurrentUser) -> User:
    """Show who the token belongs to."""
    return user


@router.post("/token", status_code=204)
async def renew_token(user: AsyncCurrentUser, response: Response) -> None:
    """Replace the token, for instance when it has been seen by others."""
    give_token(user, response)
