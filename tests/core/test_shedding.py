"""Whom a line refuses, on a simulated clock: nobody before it must, and then those who have waited longest."""

import math
from collections.abc import Iterator
from contextlib import suppress

import pytest
from bench.policies import PLACES, TIMEOUT, Arrival, Outcome, controlled_delay, poisson, simulate

from fastapi_database.core.queue import AdmissionQueue, Named, Ticket
from fastapi_database.errors import QueueShed

HOLD = 0.2  # seconds; ten times as long as the benchmark's, so that a run is a tenth of the work
CAPACITY = PLACES / HOLD
ROOM = 100  # waiting: four seconds of work
OFF = math.inf
SECONDS = 60.0
ME = Named("me")


def run(arrivals: Iterator[Arrival], *, target: float = 0.2) -> Outcome:
    return simulate(controlled_delay(target, max_waiting=ROOM), arrivals)


def load(times: float, *, seconds: float = SECONDS, start: float = 0.0) -> Iterator[Arrival]:
    """Let so many times more come than can be served."""
    return (Arrival(start + one.at, one.hold) for one in poisson(times * CAPACITY, seconds, hold=HOLD))


@pytest.mark.parametrize("target", [OFF, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("times", [1.2, 2.0, 5.0])
def test_b11_goodput_past_capacity_is_flat_whatever_the_target(times: float, target: float) -> None:
    outcome = run(load(times), target=target)
    assert outcome.finished >= 0.96 * CAPACITY * SECONDS
    assert outcome.longest_line <= ROOM
    assert outcome.wait(1.0) <= TIMEOUT


@pytest.mark.parametrize("times", [2.0, 5.0])
def test_b11_past_capacity_all_are_served_within_a_second_where_without_a_target_hardly_anybody_is(
    times: float,
) -> None:
    served = CAPACITY * SECONDS
    assert run(load(times), target=OFF).in_patience < 0.1 * served
    assert run(load(times)).in_patience > 0.9 * served  # the rest is from before the line was full


@pytest.mark.parametrize("times", [0.5, 0.9])
def test_below_capacity_nobody_is_refused(times: float) -> None:
    assert not run(load(times), target=0.01).refusals


def test_b11_a_line_that_stands_refuses_nobody_as_long_as_all_of_them_fit_in() -> None:
    queue = AdmissionQueue(places=PLACES, max_waiting=ROOM, single_writer=False, target=0.01)
    line = [queue.request(writer=False, owner=ME, now=0.0) for _ in range(PLACES + ROOM)]
    for step in range(2000):  # a closed loop: who is served comes again
        now = (step + 1) * HOLD / PLACES
        queue.release(line.pop(0), now=now)
        line.append(queue.request(writer=False, owner=ME, now=now))
        assert line[PLACES - 1].granted == now
    assert all(one.refusal is None for one in line)


def test_an_overload_that_ends_before_the_line_is_full_refuses_nobody() -> None:
    assert not run(load(1.6, seconds=5.0), target=0.01).refusals


def test_a_burst_that_is_too_large_is_served_as_far_as_it_fitted_in() -> None:
    burst = [Arrival(0.0, HOLD) for _ in range(PLACES + 2 * ROOM)]
    outcome = run(iter([*burst, *load(0.5, seconds=10.0, start=0.5)]), target=0.05)
    assert len([wait for wait in outcome.refusals.values() if wait == 0.0]) >= ROOM
    assert not [wait for wait in outcome.refusals.values() if wait > 0.0]


@pytest.mark.parametrize("times", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("beyond", [tenth / 10 for tenth in range(1, 21)])
def test_after_a_stall_all_are_served_who_have_not_met_their_deadline(beyond: float, times: float) -> None:
    # It ends early in an interval or late: one in which few were served is not overload yet, however it falls.
    stall = [Arrival(0.0, TIMEOUT + beyond) for _ in range(PLACES)]
    arrivals = [*stall, *load(times, seconds=20.0, start=0.01)]
    with_target, without = (simulate(controlled_delay(target), iter(arrivals)) for target in (0.05, OFF))
    assert with_target.refusals == without.refusals
    assert without.refusals


def test_when_the_load_drops_nobody_waits_longer_than_the_target_soon_after() -> None:
    arrivals = [*load(3.0, seconds=20.0), *load(0.5, seconds=10.0, start=20.0)]
    assert latest_late(run(iter(arrivals)), arrivals) <= 2.0
    assert latest_late(run(iter(arrivals), target=OFF), arrivals) > 2.0


@pytest.mark.parametrize("ends", [20.0, 20.3, 20.7])
def test_when_nobody_comes_any_more_all_are_served_who_wait(ends: float) -> None:
    arrivals = list(load(3.0, seconds=ends))
    outcome = run(iter(arrivals))
    refused = {number: arrivals[number].at + wait for number, wait in outcome.refusals.items()}
    assert len(refused) > CAPACITY * ends
    assert max(refused.values()) <= arrivals[-1].at


@pytest.mark.parametrize("times", [2.0, 5.0])
def test_past_capacity_hardly_anybody_waits_in_vain(times: float) -> None:
    outcome = run(load(times))
    at_once = [wait for wait in outcome.refusals.values() if wait == 0.0]
    assert len(at_once) > 0.9 * len(outcome.refusals)
    assert outcome.wait(0.5) < 1.5 * 0.2


def test_who_waits_when_all_becomes_slower_makes_room() -> None:
    # As many wait as were served in time of late. Each of them would now meet the deadline.
    before = list(load(3.0, seconds=20.0))
    outcome = run(iter([*before, *(Arrival(one.at, 5 * one.hold) for one in load(3.0, start=20.0))]), target=1.0)
    waited = [wait for number, wait in outcome.refusals.items() if number >= len(before) - PLACES]
    assert max(waited) < 3.0


@pytest.mark.parametrize("quiet", [2.5, 60.0])
def test_a_burst_after_an_overload_is_judged_by_itself(quiet: float) -> None:
    overload = list(load(3.0, seconds=20.0))
    again = 20.0 + ROOM / CAPACITY + quiet  # whoever waited has been served
    burst = [Arrival(again + number / (3 * CAPACITY), HOLD) for number in range(ROOM)]
    outcome = run(iter([*overload, *burst]))
    assert not [number for number in outcome.refusals if number >= len(overload)]


def latest_late(outcome: Outcome, arrivals: list[Arrival]) -> float:
    """Give how long after the load dropped the last one came who waited for more than a second."""
    return max(arrivals[number].at - 20.0 for number, wait in outcome.waits.items() if wait > 1.0)


def test_no_place_stays_free_because_a_target_sent_everybody_away() -> None:
    # Each holds its place for a hundred times what the target allows to wait: whoever waits at all is late.
    arrivals = list(poisson(4.0, 120.0, hold=2.0))
    with_target, without = (run(iter(arrivals), target=target) for target in (0.01, OFF))
    assert with_target.finished >= 0.95 * without.finished


def overloaded(queue: AdmissionQueue, *, writer: bool = False, seconds: float = 3.0) -> Iterator[float]:
    """Have two claims come for each that is served, ten a second; give the time of each step."""
    for step in range(1, int(10 * seconds)):
        now = step / 10
        for _ in range(2):
            with suppress(QueueShed):
                queue.request(writer=writer, owner=ME, now=now)
        holder = next((one for one in queue.held if one.writer == writer), None)
        if holder is not None:
            queue.release(holder, now=now)
        yield now


def shed(tickets: list[Ticket]) -> list[bool]:
    return [one.refusal is not None and one.refusal.code == "queue-shed" for one in tickets]


def test_the_message_says_what_the_target_was_and_what_the_queue_is_like() -> None:
    queue = AdmissionQueue(places=1, max_waiting=100, single_writer=False, target=0.2)
    queue.request(writer=False, owner=ME, now=0.0)
    last: Ticket | None = None
    for now in overloaded(queue):
        if now == 1.0:
            last = queue.request(writer=False, owner=ME, now=now)
            queue.expire(queue.request(writer=False, owner=ME, now=now), now=now)
    assert last is not None
    assert last.refusal is not None
    assert "(max_connections 1, in use 1, waiting" in str(last.refusal)
    assert "twice queue_target=0.2 s" in str(last.refusal)
    assert last.refusal.retry_after is not None
    assert last.refusal.retry_after >= 1


def test_the_message_of_who_is_refused_at_once_says_how_many_wait() -> None:
    queue = AdmissionQueue(places=1, max_waiting=100, single_writer=False, target=0.2)
    queue.request(writer=False, owner=ME, now=0.0)
    refusals: list[QueueShed] = []
    for now in overloaded(queue, seconds=6.0):
        if now == 1.0:
            queue.expire(queue.request(writer=False, owner=ME, now=now), now=now)
        try:
            queue.request(writer=False, owner=ME, now=now)
        except QueueShed as refusal:
            refusals.append(refusal)
    assert "2 requests wait already, as many as are served within queue_target=0.2 s," in str(refusals[-1])


def test_writers_who_wait_for_each_other_are_shed_though_readers_are_served_at_once() -> None:
    queue = AdmissionQueue(places=5, max_waiting=100, single_writer=True, target=0.2)
    queue.request(writer=True, owner=ME, now=0.0)
    writers: list[Ticket] = []
    for now in overloaded(queue, writer=True):
        reader = queue.request(writer=False, owner=ME, now=now)
        assert reader.granted == now
        queue.release(reader, now=now)
        if now == 1.0:
            writers = [queue.request(writer=True, owner=ME, now=now) for _ in range(3)]
            queue.expire(queue.request(writer=True, owner=ME, now=now), now=now)
    assert shed(writers)[0]


def test_payments_that_are_served_first_do_not_hide_that_the_others_stand_and_are_not_shed() -> None:
    queue = AdmissionQueue(places=1, max_waiting=100, single_writer=False, target=0.2)
    queue.request(writer=False, owner=ME, now=0.0)
    payments: list[Ticket] = []
    others: list[Ticket] = []
    for now in overloaded(queue, seconds=6.0):
        payments.append(queue.request(writer=False, owner=Named("payment", 5), now=now))
        queue.release(next(iter(queue.held)), now=now)
        assert payments[-1].granted == now
        if now == 1.0:
            queue.expire(queue.request(writer=False, owner=ME, now=now), now=now)
            others = [queue.request(writer=False, owner=Named("report", -1), now=now) for _ in range(3)]
    assert all(one.refusal is not None for one in others)
    assert not any(shed(payments))
