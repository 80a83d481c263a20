"""The exceptions and the schemas of the application."""

from pydantic import BaseModel, ConfigDict


class Refused(Exception):
    """An exception of the application, answered with a status of its own."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


class Forgiven(Exception):
    """An exception that a handler of the application answers with 200."""


class Unforeseen(Exception):
    """An exception that only the handler for `Exception` knows; it answers 200."""


class ThingIn(BaseModel):
    name: str


class ThingOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str
