"""What is compared: the peers and the endpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Literal

from bench.apps.model import LISTED

GREY = "#7d8590"  # readable on white and on near-black
CREATED = b'{"name":"John Doe","email":"john@example.com"}'


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One application of bench/apps and how it is shown."""

    name: str
    label: str
    mode: Literal["sync", "async"]
    colour: str = GREY
    environment: str = ""
    """The requirements that it is installed from; without any it runs in the project's own environment."""
    not_on: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The databases that it can not be measured on, and why."""
    everywhere: bool = False
    """Whether it is measured at every number of clients, and has a line in the picture of the README."""


PEERS = (
    Peer(name="tutorial", label="tutorial's pattern", mode="sync", colour="#d1495b", everywhere=True),
    Peer(name="commit_in_dependency", label="commit in the dependency", mode="sync"),
    Peer(name="handwritten_sync", label="hand-written Session", mode="sync"),
    Peer(name="sqlmodel_tutorial", label="SQLModel tutorial", mode="sync", environment="sqlmodel"),
    Peer(name="advanced_alchemy_sync", label="advanced-alchemy, sync", mode="sync", environment="advanced_alchemy"),
    Peer(name="ours_sync", label="ours, sync", mode="sync", colour="#1f9d61", everywhere=True),
    Peer(name="handwritten_async", label="hand-written AsyncSession", mode="async", colour="#8f73d1", everywhere=True),
    Peer(name="advanced_alchemy_async", label="advanced-alchemy, async", mode="async", environment="advanced_alchemy"),
    Peer(
        name="fastapi_async_sqlalchemy",
        label="fastapi-async-sqlalchemy",
        mode="async",
        environment="fastapi_async_sqlalchemy",
    ),
    Peer(
        name="fastapi_toolsets",
        label="fastapi-toolsets",
        mode="async",
        environment="fastapi_toolsets",
        not_on={"sqlite": "its documentation says that it is coded and tested for PostgreSQL only"},
    ),
    Peer(
        name="context_async_sqlalchemy",
        label="context-async-sqlalchemy",
        mode="async",
        environment="context_async_sqlalchemy",
    ),
    Peer(name="ours_async", label="ours, async", mode="async", colour="#2f8fd8", everywhere=True),
)
BY_NAME = {peer.name: peer for peer in PEERS}
LABELS = {peer.name: peer.label for peer in PEERS}
TITLES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
COPIED = "tutorial"  # the peer that ratios refer to
HANDWRITTEN = {"sync": "handwritten_sync", "async": "handwritten_async"}
OURS = {"sync": "ours_sync", "async": "ours_async"}
WITHOUT_A_TWIN = {
    "SQLModel tutorial, async": "FastAPI's tutorial has no async form",
    "fastapi-async-sqlalchemy, sync": "it gives an AsyncSession only",
    "fastapi-toolsets, sync": "it gives an AsyncSession only",
    "context-async-sqlalchemy, sync": "it gives an AsyncSession only",
}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One endpoint and the raw HTTP/1.1 requests that are sent to it, in turn."""

    name: str
    title: str
    requests: tuple[bytes, ...]

    def stream(self) -> Iterator[bytes]:
        """Return the requests for ever."""
        return cycle(self.requests)


def http(method: str, path: str, *, body: bytes = b"") -> bytes:
    """Return a keep-alive request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\naccept: application/json\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


LIST = Endpoint(name="list", title=f"GET /users ({LISTED} rows)", requests=(http("GET", "/users"),))
GET = Endpoint(
    name="get",
    title="GET /users/{id}",
    requests=tuple(http("GET", f"/users/{number}") for number in range(1, LISTED + 1)),
)
POST = Endpoint(name="post", title="POST /users", requests=(http("POST", "/users", body=CREATED),))
ENDPOINTS = (LIST, GET, POST)
MISSING = Endpoint(name="missing", title="GET /users/999999999", requests=(http("GET", "/users/999999999"),))
