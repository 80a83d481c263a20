"""B21, in short: many mixed requests leave nothing and make nothing grow. `python -m bench soak` is the long form."""

import asyncio
from contextlib import closing

import pytest
from bench.apps.model import Base, User
from bench.database import ROWS
from bench.soak import NOISE, Soak, soak
from sqlalchemy import insert

from fastapi_database import Database
from support.unpromised import unpromised

pytestmark = pytest.mark.load

REQUESTS = 5000


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=unpromised)])
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


@pytest.mark.parametrize("name", NOISE)
def test_what_each_request_leaves_behind_is_told_from_what_is_kept_once(name: str) -> None:
    each, once = NOISE[name]
    leak = 2 * each + 4 * once / REQUESTS
    run = Soak(REQUESTS, readings=[reading(**{name: int(i * leak * REQUESTS / 12)}) for i in range(12)])
    assert run.growth(name) == pytest.approx(leak, rel=0.05)
    assert run.complaints() == [f"{name} grows by {run.growth(name):.3f} for each request"]
    kept = Soak(REQUESTS, readings=[reading(**{name: min(i, 3) * 100_000_000}) for i in range(12)])
    assert kept.complaints() == []


@pytest.mark.parametrize("name", ["sessions", "in_use", "waiting", "checked_out"])
def test_one_that_is_left_once_is_told(name: str) -> None:
    run = Soak(REQUESTS, readings=[reading(**{name: int(i == 7)}) for i in range(12)])
    assert len(run.complaints()) == 1
