"""More connections than the server has, told when the application starts and not when it is busy for the first time."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

logger = logging.getLogger("fastapi_database")

FEW = 10
"""Connections that every server has: below, none is asked. One process with the defaults opens as many."""

PATIENCE = 5.0
"""Seconds the question may take: it holds a place, and is of no use once the application is busy."""

_SERVERS = re.compile(r"uvicorn|gunicorn|fastapi|hypercorn|granian")
_WORKERS = re.compile(r"(?:--workers|-w)(?:=?(\d+))?")


@dataclass(frozen=True, slots=True)
class Room:
    """What a server says about its connections."""

    most: int
    """How many it allows."""
    reserved: int
    """How many of these are kept for administrators."""
    others: int
    """How many somebody else has now: another user, or another database."""

    @property
    def left(self) -> int:
        """How many are there for this application."""
        return max(0, self.most - self.reserved - self.others)


def workers(command: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Tell how many processes serve the application, as its server was told; None where that is not known.

    The command line of a worker is that of its server: uvicorn's children are started with it, gunicorn's are forks.

    >>> workers(["/usr/bin/uvicorn", "app:app", "--workers", "4"], {}), workers(["gunicorn", "-w8", "app:app"], {})
    (4, 8)
    >>> workers(["script.py", "-w", "4"], {"WEB_CONCURRENCY": "2"}), workers(["script.py"], {})
    (2, None)
    """
    if command and _SERVERS.search(os.path.basename(os.path.dirname(command[0])) + os.path.basename(command[0])):
        for this, following in zip(command[1:], [*command[2:], ""], strict=True):
            match = _WORKERS.fullmatch(this)
            number = match and (match[1] or following)
            if number and number.isdigit():
                return int(number)
    number = environ.get("WEB_CONCURRENCY", "")  # both servers read it
    return int(number) if number.isdigit() and int(number) > 0 else None


def warning(room: Room, *, processes: int | None, max_connections: int) -> str | None:
    """Say that there will be too few connections, with the numbers and what to do; None when there are enough.

    >>> warning(Room(most=100, reserved=3, others=0), processes=4, max_connections=10) is None
    True
    """
    count = processes or 1
    needed = count * max_connections
    if needed <= room.left:
        return None
    who = "this process alone" if processes is None else f"{count} worker{'s' if count > 1 else ''}"
    return (
        f"{who} x max_connections {max_connections} = {needed} connections, and the server has {room.left} for them "
        f"(max_connections {room.most}, {room.reserved} of them reserved, {room.others} in use by others now). Once "
        "they are busy, requests will be answered with 503. Set max_connections to "
        f"{max(1, room.left // count)} at most, take fewer workers, raise the server's, or put PgBouncer "
        "between (docs/how-to/workers-and-connections.md)"
    )
