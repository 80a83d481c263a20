"""Variants by what the endpoint is: objects, methods, partials, wrapped functions, generators."""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from apps.a_variants import Ask, Inner, add, add_answer
from apps.a_variants_parameters import Service

# Callables


class Callable_:  # noqa: N801
    """A callable object."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, q: int = 1) -> str:
        """Answer."""
        return f"{self.prefix}{q}"

    def method(self, q: int = 2) -> str:
        """Answer as a method."""
        return f"{self.prefix}{q}"

    @classmethod
    def of_class(cls, q: int = 3) -> str:
        return f"{cls.__name__}{q}"

    @staticmethod
    def static(q: int = 4) -> str:
        return f"{q}"


class AsyncCallable:
    async def __call__(self, response: Response, q: int = 1) -> str:
        response.headers["x-async"] = "yes"
        return f"async {q}"


def greet(greeting: str, name: str = "Ann", *, mark: str = "!") -> str:
    """Greet."""
    return f"{greeting} {name}{mark}"


async def greet_slowly(greeting: str, name: str = "Ann") -> str:
    """Greet."""
    await asyncio.sleep(0)
    return f"{greeting} {name}"


def _sync_around(function: Any) -> Any:
    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def _async_around(function: Any) -> Any:
    @functools.wraps(function)
    async def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def _awaiting_around(function: Any) -> Any:
    @functools.wraps(function)
    async def around(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return around


class Model(BaseModel):
    """A class is a callable, too."""

    q: int = 1


CALLABLES: dict[str, Any] = {
    "instance": Callable_("i"),
    "async-instance": AsyncCallable(),
    "method": Callable_("m").method,
    "class-method": Callable_.of_class,
    "static-method": Callable_.static,
    "class": Service,
    "model-class": Model,
    "lambda": lambda q=1: q,
    "partial": functools.partial(greet, "hello"),
    "partial-keyword": functools.partial(greet, mark="?"),
    "partial-of-partial": functools.partial(functools.partial(greet, "hi"), mark="."),
    "partial-async": functools.partial(greet_slowly, "hello"),
    "partial-instance": functools.partial(Callable_("p"), q=7),
    "partial-method": functools.partial(Callable_("pm").method),
    "sync-around-sync": _sync_around(greet),
    "sync-around-async": _sync_around(greet_slowly),
    "async-around-sync": _async_around(greet),
    "async-around-async": _awaiting_around(greet_slowly),
    "partial-of-around": functools.partial(_async_around(greet), "hello"),
    "cached": functools.lru_cache(greet),
}
for _name, _callable in CALLABLES.items():
    add(f"callable-{_name}", Ask("?greeting=hi"), Ask("?greeting=hi&name=Bob&q=9"), twin=False)(_callable)


@add("twice-decorated", Ask(), path="/first")
@add("twice-decorated-again", Ask(), path="/second", status_code=202)
def decorated_twice() -> str:
    return "x"


# Methods
for _method in ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"):
    add_answer(f"method-{_method}", lambda: {"a": 1}, Ask(method=_method), Ask(method="GET"), methods=[_method])


@add(
    "methods",
    *(Ask(method=one) for one in ("GET", "POST", "HEAD", "OPTIONS")),
    methods=["GET", "POST", "HEAD"],
    include_in_schema=False,
)
def methods(request: Request) -> Any:
    return request.method


# Generators


@add("json-lines", twin=False)
def json_lines() -> Iterator[Inner]:
    yield Inner(a=1)
    yield Inner(a=2)


@add("json-lines-async", twin=False)
async def json_lines_async(q: int = 2) -> AsyncIterator[dict[str, int]]:
    for number in range(q):
        yield {"n": number}


@add("events", response_class=EventSourceResponse, twin=False)
async def events() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(data={"a": 1}, event="e", id="1")
    yield ServerSentEvent(raw_data="raw", retry=5)


@add("events-sync", response_class=EventSourceResponse, twin=False)
def events_sync(response: Response) -> Iterator[Inner]:
    response.headers["x-a"] = "1"
    yield Inner(a=1)


@add("raw-generator", response_class=StreamingResponse, twin=False)
def raw_generator(request: Request) -> Iterator[bytes]:
    yield request.method.encode()
    yield b"!"
