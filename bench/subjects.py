"""What is compared: the peers and the endpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from bench.apps.model import LISTED

CREATED = b'{"name":"John Doe","email":"john@example.com"}'


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One application of bench/apps and how it is shown."""

    name: str
    label: str
    colour: str


PEERS = (
    Peer(name="tutorial", label="tutorial's pattern", colour="#d1495b"),
    Peer(name="commit_in_dependency", label="commit in the dependency", colour="#d98324"),
    Peer(name="handwritten_async", label="hand-written AsyncSession", colour="#8f73d1"),
    Peer(name="ours_async", label="ours, async", colour="#2f8fd8"),
    Peer(name="ours_sync", label="ours, sync", colour="#1f9d61"),
)
LABELS = {peer.name: peer.label for peer in PEERS}
COPIED = "tutorial"  # the peer that ratios refer to


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
