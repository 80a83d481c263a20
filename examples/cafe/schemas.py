"""What goes in and out as JSON. `UserOut` has no token: what is not named here cannot leak."""

from typing import Annotated

from pydantic import BaseModel, StringConstraints

from .models import NAME_LENGTH

# No control characters: they are invisible in a list, and PostgreSQL cannot store the character NUL.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f]*$"),
]


class UserIn(BaseModel):
    """A new user, or the new name of one."""

    name: Name


class UserOut(BaseModel):
    """What everybody may see of a user."""

    id: int
    name: str
