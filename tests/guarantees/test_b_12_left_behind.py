"""B12: a stream that is aborted in a `yield`, in the middle of a unit, leaves nothing to the garbage collector."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from apps.b_serving import FORMS, POOL, Served, comes_true
from support.clients import Request, held_open, reset_when_closed

pytest_plugins = ["apps.b_fixtures"]
DATABASES = sorted({database for database, kind, _ in FORMS if kind == "async"})
STREAMS = 3


@contextmanager
def no_collector(one: Served) -> Iterator[None]:
    """Keep the garbage collector of a server away."""
    one.ask("/collector/off", "POST")
    try:
        yield
    finally:
        one.ask("/collector/on", "POST")


@pytest.mark.parametrize("stacked", [0, 1])
@pytest.mark.parametrize("path", ["flood", "flood-of-events", "flood-of-own-events"])
@pytest.mark.parametrize("router", ["own", "plain"])
@pytest.mark.parametrize("database", DATABASES)
def test_b12_what_a_stream_was_in_the_middle_of_is_given_back_without_the_garbage_collector(
    served: Callable[..., Served], database: str, router: str, path: str, stacked: int
) -> None:
    one = served(database, app="apps.b_aborted:app", DATABASE_QUEUE_TIMEOUT="60")
    log = one.log_from_here()
    streams = 1 if database == "sqlite" else STREAMS  # one writer at a time
    request = Request("GET", f"{one.server.url}/async/{router}/{path}", headers={"Stacked": str(stacked)})
    with no_collector(one):
        with held_open(request, streams) as sockets:
            assert comes_true(lambda: one.watch()["in_use"] == streams)
            for client in sockets:
                reset_when_closed(client)
        assert comes_true(one.is_at_rest), one.watch()
        assert {answer.status for answer in one.burst(f"/async/{router}/one", 50, concurrency=POOL)} == {200}
    one.ask("/collect", "POST")
    assert one.is_at_rest()
    assert "garbage collector" not in log()
