"""B11: what a request that is refused costs under five times the load that the database can bear, and what is left.

Counts only, which hold on any machine. How much is answered meanwhile, and how fast, is measured by
`python -m bench overload`, for which the machine must have nothing else to do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from bench.openloop import Phase, press_from_outside

from apps.b_serving import POOL, comes_true
from support.clients import burst
from support.server import Server

pytestmark = pytest.mark.load

WORK = 0.1  # seconds of a statement
MAX_WAITING = 50
OVERLOAD = Phase(rate=5 * POOL / WORK, seconds=4.0)
LIMITS = {"DATABASE_MAX_CONNECTIONS": POOL, "DATABASE_MAX_WAITING": MAX_WAITING, "DATABASE_QUEUE_TIMEOUT": 1.0}


@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_b11_a_refusal_costs_no_connection_and_no_thread_and_an_overload_leaves_nothing(
    serve: Callable[..., Server], postgresql_url: str, path: str
) -> None:
    settings = {"DATABASE_URL": postgresql_url, "WORK": str(WORK), **{name: str(one) for name, one in LIMITS.items()}}
    server = serve("apps.b_overload:app", env=settings, args=["--backlog", "4096"])
    burst(f"{server.url}{path}", POOL, concurrency=POOL)  # connections are open
    before, inside = look(server, "/watch"), look(server, "/inside")
    with watched(server) as seen:
        sent = press_from_outside(server.port, path, [OVERLOAD])

    statuses = [one.status for one in sent]
    served, refused = statuses.count(200), statuses.count(503)
    assert served + refused == len(sent)
    assert refused > MAX_WAITING  # it was an overload

    after = {name: number - before[name] for name, number in look(server, "/watch").items()}
    assert after["refused"] + after["shed"] + after["timed_out"] == refused
    assert (after["admitted"], after["checkouts"], after["statements"]) == (served, served, served)
    assert after["connects"] == 0
    assert after["hops"] == (served if path == "/sync" else 0)
    assert look(server, "/watch")["most_open"] <= POOL

    assert max(one["waiting"] for one in seen) <= MAX_WAITING
    assert max(one["resident"] for one in seen) - inside["resident"] <= 50_000_000
    assert comes_true(lambda: look(server, "/inside")["tasks"] <= inside["tasks"] + POOL)
    assert (look(server, "/inside")["in_use"], look(server, "/inside")["waiting"]) == (0, 0)


@contextmanager
def watched(server: Server) -> Iterator[list[dict[str, int]]]:
    """Look inside every half second."""
    seen = [look(server, "/inside")]
    done = Event()

    def watch() -> None:
        while not done.wait(0.5):
            seen.append(look(server, "/inside"))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def look(server: Server, path: str) -> dict[str, int]:
    """Ask the application about itself, without its database."""
    return burst(f"{server.url}{path}", 1, timeout=60.0)[0].json()
