"""What endpoints of every kind are made of: a register of variants, asked the same on two classes of route."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Ask:
    """One request to a variant."""

    target: str = ""
    method: str = ""
    json: object = None
    content: bytes = b""
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Variant:
    """One endpoint, how it is registered, and what is asked of it."""

    name: str
    endpoint: Callable[..., Any]
    options: dict[str, Any]
    asks: Sequence[Ask]
    path: str
    twin: bool
    """Whether an `async def` form of it can be made."""


VARIANTS: list[Variant] = []
RAN: list[str] = []
"""What background tasks and exits noted, in order."""


def add(
    variant: str, *asks: Ask, path: str = "", methods: Sequence[str] = ("GET",), twin: bool = True, **options: Any
) -> Callable[[Any], Any]:
    """Note an endpoint as a variant."""

    def note(endpoint: Any) -> Any:
        VARIANTS.append(Variant(variant, endpoint, {"methods": list(methods), **options}, asks or (Ask(),), path, twin))
        return endpoint

    return note


def add_answer(variant: str, make: Callable[[], Any], *asks: Ask, **options: Any) -> None:
    """Note an endpoint without parameters that returns what a function makes."""

    def answer() -> Any:
        return make()

    del answer.__annotations__["return"]
    add(variant, *asks, **options)(answer)


def as_async(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the same endpoint as `async def`."""

    async def twin(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    functools.update_wrapper(twin, function)
    del twin.__wrapped__
    twin.__signature__ = inspect.signature(function)
    return twin


class Inner(BaseModel):
    a: int
    b: str = "x"


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str
    note: str | None = None


class Plain:
    """What an ORM object looks like to FastAPI."""

    def __init__(self) -> None:
        self.id, self.name, self.secret = 1, "Ann", "hidden"
