"""A request that was refused a place, answered and logged for less than a request that is served.

Under overload most requests are refused, and what each of them costs is missing where others are served.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi.responses import JSONResponse, Response

from fastapi_database.errors import Problem, QueueFull, QueueShed, QueueTimeout, problem_for

MEDIA_TYPE = "application/problem+json"

LINE_EVERY = 1.0
"""Seconds between two lines in the log for refusals of one kind. A line each, hundreds a second, says nothing more."""


class Refused(Response):
    """A problem document that was written beforehand: nothing in it depends on the request but ``Retry-After``."""

    media_type = MEDIA_TYPE

    def __init__(self, body: bytes, status: int, retry_after: float | None) -> None:
        # What Response.__init__ would work out each time, in its order.
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"retry-after", b"%d" % in_seconds(retry_after or 0.0)),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", MEDIA_TYPE.encode()),
        ]


def in_seconds(retry_after: float) -> int:
    """Give what ``Retry-After`` says: whole seconds, and never that it may be at once."""
    return max(1, math.ceil(retry_after))


def document(problem: Problem) -> dict[str, object]:
    """Give the members that every problem document has."""
    return {"type": problem.type, "title": problem.title, "status": problem.status, "code": problem.code}


def _written(kind: type[QueueFull | QueueShed | QueueTimeout]) -> bytes:
    return bytes(JSONResponse(document(problem_for(kind("")))).body)


BODIES: Mapping[type[BaseException], bytes] = {kind: _written(kind) for kind in (QueueFull, QueueShed, QueueTimeout)}


def refused(error: BaseException) -> Refused | None:
    """Answer what the queue refused; None for every other error."""
    body = BODIES.get(type(error))
    if body is None or not isinstance(error, QueueFull | QueueShed | QueueTimeout):
        return None
    return Refused(body, error.status, error.retry_after)


@dataclass(slots=True)
class _Kind:
    silent_until: float = -math.inf
    left_out: int = 0


@dataclass(slots=True)
class RefusalLog:
    """Which refusals the log hears of: the first of a kind, and then one line a second with the number left out."""

    clock: Callable[[], float] = time.monotonic
    _kinds: dict[type[BaseException], _Kind] = field(default_factory=dict[type[BaseException], _Kind])

    def left_out(self, error: BaseException) -> int | None:
        """Give how many refusals were left out before this one; None where it is left out itself."""
        kind = self._kinds.setdefault(type(error), _Kind())
        now = self.clock()
        if now < kind.silent_until:
            kind.left_out += 1
            return None
        left_out, kind.left_out = kind.left_out, 0
        kind.silent_until = now + LINE_EVERY
        return left_out
