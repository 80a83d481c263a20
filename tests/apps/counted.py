"""An application that counts what it does: GET /counted answers it, and begins anew.

`COUNTED_APP` names the application as uvicorn does; it is not touched, only wrapped. `COUNTED` is what is counted:

- "statements": everything that SQLite is given to execute, BEGIN and COMMIT included, by `set_trace_callback`;
- "calls": how many functions are called, of Python and of C, in the event loop's thread and in all others.

Neither is free, so each has a server of its own.
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool
from uvicorn.importer import import_from_string

Message = MutableMapping[str, Any]


def create() -> Callable[..., Awaitable[None]]:
    """Make the application: statements are watched before it has engines, calls from when it is imported."""
    statements = os.environ["COUNTED"] == "statements"
    watch = _statements() if statements else None
    app = import_from_string(os.environ["COUNTED_APP"])
    count = watch or _calls()

    async def counted(scope: Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope.get("path") != "/counted":
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(count()).encode()})

    return counted


def _statements() -> Callable[[], list[str]]:
    seen: list[str] = []

    def connected(connection: Any, record: object) -> None:
        if hasattr(connection, "run_async"):  # an asynchronous driver's
            connection.run_async(lambda one: one.set_trace_callback(seen.append))
        else:
            connection.set_trace_callback(seen.append)

    def read() -> list[str]:
        found = seen.copy()
        seen.clear()
        return found

    event.listen(Pool, "connect", connected)
    return read


def _calls() -> Callable[[], int]:
    counter = itertools.count()  # its next is atomic
    read_at = 0

    def profile(frame: FrameType, what: str, argument: object) -> None:
        if what in {"call", "c_call"}:
            next(counter)

    def read() -> int:
        nonlocal read_at
        before, read_at = read_at, next(counter)
        return read_at - before

    threading.setprofile(profile)  # for threads that are started from now on
    sys.setprofile(profile)
    return read
