"""When to try again: one attempt at a time, with pauses that grow and vary, under a clock of our own."""

import itertools
import random

import pytest

from fastapi_database.core.reconnect import FIRST_PAUSE, LONGEST_PAUSE, Attempt, Reconnect


@pytest.fixture(params=[0.0, 0.5, 0.999])
def reconnect(request: pytest.FixtureRequest) -> Reconnect:
    return Reconnect(random=lambda: request.param)


def begin(reconnect: Reconnect, now: float) -> Attempt:
    attempt = reconnect.start(now)
    assert attempt is not None
    return attempt


def test_any_number_may_connect_while_nothing_has_failed(reconnect: Reconnect) -> None:
    attempts = [begin(reconnect, 1.0) for _ in range(100)]
    for attempt in attempts:
        assert reconnect.succeeded(attempt) is None


def test_after_a_failure_one_at_a_time_tries_again_after_a_pause(reconnect: Reconnect) -> None:
    reconnect.failed(begin(reconnect, 1.0), 1.0)
    assert reconnect.start(1.0) is None
    assert 0 < reconnect.wait(1.0) <= FIRST_PAUSE
    later = 1.0 + FIRST_PAUSE
    assert reconnect.wait(later) == 0
    second = begin(reconnect, later)
    assert reconnect.start(later + 100) is None  # the other is still at it
    ended = reconnect.succeeded(second)
    assert ended is not None
    assert (ended.since, ended.attempts) == (1.0, 1)
    assert [begin(reconnect, later + 1) for _ in range(10)]


def test_pauses_grow_to_their_limit_and_vary_by_half(reconnect: Reconnect) -> None:
    now, pauses = 0.0, []
    for _ in range(50):
        reconnect.failed(begin(reconnect, now), now)
        pauses.append(reconnect.wait(now))
        now += LONGEST_PAUSE
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(pauses))
    assert FIRST_PAUSE / 2 <= pauses[0] <= FIRST_PAUSE
    assert LONGEST_PAUSE / 2 <= pauses[-1] <= LONGEST_PAUSE
    assert pauses[10] == pytest.approx(pauses[-1])


def test_attempts_that_fail_together_are_one_failure(reconnect: Reconnect) -> None:
    together = [begin(reconnect, 1.0) for _ in range(10)]
    for attempt in together:
        reconnect.failed(attempt, 1.5)
    assert reconnect.outage is not None
    assert reconnect.outage.attempts == 1
    assert reconnect.wait(1.5) <= FIRST_PAUSE


def test_an_attempt_from_before_the_outage_that_succeeds_ends_it(reconnect: Reconnect) -> None:
    first, second = begin(reconnect, 1.0), begin(reconnect, 1.0)
    reconnect.failed(first, 1.1)
    assert reconnect.start(60.0) is None  # the second may yet succeed
    assert reconnect.succeeded(second) is not None
    assert reconnect.start(1.2) is not None


def test_an_attempt_that_is_withdrawn_says_nothing(reconnect: Reconnect) -> None:
    reconnect.withdrawn(begin(reconnect, 1.0))
    assert reconnect.outage is None
    reconnect.failed(begin(reconnect, 1.0), 1.0)
    reconnect.withdrawn(begin(reconnect, 2.0))
    assert reconnect.start(2.0) is not None


def test_processes_that_lose_a_server_together_do_not_come_back_in_step() -> None:
    chance = random.Random(1)
    processes = [Reconnect(random=chance.random) for _ in range(20)]
    for one in processes:
        for now in itertools.accumulate([LONGEST_PAUSE] * 10):
            one.failed(begin(one, now), now)
    waits = sorted(one.wait(10 * LONGEST_PAUSE) for one in processes)
    assert waits[-1] - waits[0] > LONGEST_PAUSE / 4
    assert len(set(waits)) == len(waits)
