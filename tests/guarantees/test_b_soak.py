"""B21, in short: many mixed requests leave nothing and make nothing grow. `python -m bench soak` is the long form."""

import asyncio
from collections.abc import Callable
from contextlib import closing

import pytest
from bench.apps.model import Base, User
from bench.database import ROWS
from bench.soak import NOISE, SETTLED_NOISE, Soak, soak
from sqlalchemy import insert

from fastapi_database import Database

pytestmark = pytest.mark.load

REQUESTS = 5000


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_b21_mixed_requests_leave_no_session_and_memory_does_not_grow(
    request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    with closing(Database(url, models=Base)) as db:
        db.create_all()
        with db.begin() as session:
            session.execute(insert(User), ROWS)
    run = asyncio.run(soak(url, REQUESTS))
    assert run.complaints() == []
    assert sum(run.statuses.values()) + run.aborted == REQUESTS
    assert set(run.statuses) == {200, 404, 409}
    assert run.aborted > REQUESTS * 0.01


def reading(**changed: int) -> dict[str, int]:
    names = ("objects", "sessions", "memory", "descriptors", "threads", "tasks", "in_use", "waiting", "checked_out")
    return dict.fromkeys((*names, "open"), 0) | changed


def readings(number: int, name: str, growing: Callable[[int], float]) -> list[dict[str, int]]:
    return [reading(**{name: int(growing(i * REQUESTS // number))}) for i in range(number)]


def run_of(read: list[dict[str, int]], settled: list[dict[str, int]]) -> Soak:
    return Soak(REQUESTS, readings=read, settled=settled)


NOTHING = readings(12, "objects", lambda _: 0), readings(3, "objects", lambda _: 0)


@pytest.mark.parametrize("name", NOISE)
def test_what_each_request_leaves_behind_is_told_from_what_is_kept_once(name: str) -> None:
    each, once = NOISE[name]
    leak = 2 * each + 4 * once / REQUESTS
    run = run_of(readings(12, name, lambda sent: sent * leak), NOTHING[1])
    assert run.growth(name) == pytest.approx(leak, rel=0.05)
    assert run.complaints() == [f"{name} grows by {run.growth(name):.3f} for each request, from third to third"]
    kept = run_of(readings(12, name, lambda sent: min(sent, REQUESTS // 4) * 100_000_000), NOTHING[1])
    assert kept.complaints() == []


@pytest.mark.parametrize("name", SETTLED_NOISE)
def test_what_is_there_with_connections_closed_is_compared_from_third_to_third(name: str) -> None:
    each, once = SETTLED_NOISE[name]
    leak = 2 * each + 4 * once / REQUESTS or 3 / REQUESTS
    run = run_of(NOTHING[0], readings(3, name, lambda sent: sent * leak))
    assert run.complaints() == [
        f"{name} grows by {run.growth_of_settled(name):.3f} for each request, with connections closed"
    ]
    kept = run_of(NOTHING[0], readings(3, name, lambda sent: min(sent, REQUESTS // 3) * 100_000_000))
    assert kept.complaints() == []


def test_what_grows_with_a_connection_is_told() -> None:
    run = run_of(readings(12, "objects", lambda sent: 10 * sent), NOTHING[1])
    assert run.complaints() == ["objects grows by 10.000 for each request, with connections open"]


@pytest.mark.parametrize("name", ["sessions", "in_use", "waiting", "checked_out"])
def test_one_that_is_left_once_is_told(name: str) -> None:
    run = run_of([reading(**{name: int(i == 7)}) for i in range(12)], NOTHING[1])
    assert len(run.complaints()) == 1
