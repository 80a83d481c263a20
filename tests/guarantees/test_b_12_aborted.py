"""B12: requests that are aborted at random points leave nothing behind, whatever they were in the middle of."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from apps.b_serving import FORMS, POOL, Served, comes_true
from support.clients import Request, abort_burst, statuses
from support.frames import upgrade

pytestmark = pytest.mark.load

pytest_plugins = ["apps.b_fixtures"]
WHERE = sorted({(database, kind) for database, kind, _ in FORMS})
NUMBERS = count(1)
PATHS = ("read", "write/{mark}", "stream", "sse", "socket")
OF = {"sync": PATHS, "async": (*PATHS, "cursor")}  # in a `def` generator it is left to the garbage collector
ABORTS, CLIENTS = 60, 5
LONGEST = 0.3  # seconds until the client goes away
AFTER = 100
PATIENCE = 10.0  # seconds: ten times the one that is promised
COMPLAINTS = ("garbage collector", "Exception terminating", "Task was destroyed", "never retrieved", "never awaited")


@pytest.mark.parametrize("stacked", [0, 1, 4])
@pytest.mark.parametrize(
    ("database", "kind"),
    WHERE,
    ids=map("-".join, WHERE),
)
def test_b12_requests_aborted_at_random_points_leave_nothing_behind(
    served: Callable[..., Served], database: str, kind: str, stacked: int
) -> None:
    one = served(database, app="apps.b_aborted:app", DATABASE_QUEUE_TIMEOUT="60")
    ordinary(one, kind)  # the first ones would only wait for connections to be opened
    log, mark = one.log_from_here(), f"aborted-{next(NUMBERS)}"
    chance = random.Random(12 + stacked)
    requests = [aborted(one, kind, i, f"{mark}-{i}", stacked=stacked) for i in range(ABORTS)]
    abort_burst([(request, chance.uniform(0, LONGEST)) for request in requests], concurrency=CLIENTS)

    assert comes_true(one.is_at_rest, PATIENCE), one.watch()
    one.ask("/collect", "POST")
    complaints = [line for line in log().splitlines() if any(words in line for words in COMPLAINTS)]
    assert not complaints, "\n".join(complaints)
    if one.postgresql is not None:
        assert len(one.postgresql.backends(one.database_url)) <= POOL
    assert one.watch()["most_open"] <= POOL
    ordinary(one, kind)
    assert one.is_at_rest()
    # A write completes, whoever waits for its answer, or nothing of it is there.
    marks = [request.url.rpartition("/")[2] for request in requests if request.method == "POST"]
    assert {one.rows(mark) for mark in marks} <= {0, 2}


def ordinary(one: Served, kind: str) -> None:
    """Ask what everybody is answered."""
    for router in ("own", "plain"):
        assert statuses(one.burst(f"/{kind}/{router}/one", AFTER // 2, concurrency=POOL)) == {200: AFTER // 2}


def aborted(one: Served, kind: str, number: int, mark: str, *, stacked: int) -> Request:
    router = ("own", "plain")[number % 2]
    path = OF[kind][number // 2 % len(OF[kind])].format(mark=mark)
    url = f"{one.server.url}/{kind}/{router}/{path}"
    request = upgrade(url) if path == "socket" else Request("POST" if path.startswith("write") else "GET", url)
    return replace(request, headers={**request.headers, "Stacked": str(stacked)})
