"""The admission queue against a model of it: every order of claims, withdrawals, releases and upgrades."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastapi_database.core.queue import LONGEST_RETRY, AdmissionQueue, Named, Ticket
from fastapi_database.errors import QueueFull

NUMBER = st.integers(0, 1000)
ME = Named("me")


def turn(ticket: Ticket) -> tuple[int, int]:
    return (-ticket.priority, ticket.number)


class AdmissionModel(RuleBasedStateMachine):
    """Holders and waiters as plain lists; who is served next is worked out anew each time."""

    @initialize(places=st.integers(1, 4), max_waiting=st.integers(0, 4), single_writer=st.booleans())
    def start(self, places: int, max_waiting: int, single_writer: bool) -> None:
        self.places, self.max_waiting, self.single_writer = places, max_waiting, single_writer
        self.queue = AdmissionQueue(places=places, max_waiting=max_waiting, single_writer=single_writer)
        self.now = 0.0
        self.holders: list[Ticket] = []
        self.waiters: list[Ticket] = []
        self.upgrading: list[Ticket] = []
        self.gone: list[Ticket] = []
        self.woken: list[Ticket] = []
        self.expected_woken: list[Ticket] = []
        self.writes: set[Ticket] = set()
        self.displaced: set[Ticket] = set()

    @rule(writer=st.booleans(), priority=st.integers(-1, 1))
    def request(self, writer: bool, priority: int) -> None:
        self.now += 1
        owner = Named("me", priority)
        writes = writer and self.single_writer
        ahead = [one for one in self.waiters if (one in self.writes) == writes]
        free = len(self.holders) < self.places and not ahead
        if writes:
            free = free and self.writer() is None and not self.upgrading
        if not free and len(self.waiters) >= self.max_waiting:
            last = max(self.waiters, key=turn, default=None)
            if last is None or last.priority >= priority:
                with pytest.raises(QueueFull, match=f"{len(self.waiters)} requests wait"):
                    self.queue.request(writer=writer, owner=owner, now=self.now)
                return
            self.waiters.remove(last)
            self.gone.append(last)
            self.displaced.add(last)
            self.expected_woken.append(last)
        ticket = self.queue.request(writer=writer, owner=owner, now=self.now)

        def wake() -> bool:
            self.woken.append(ticket)
            return True

        ticket.wake = wake
        assert (ticket.granted is not None) == free
        if writes:
            self.writes.add(ticket)
        (self.holders if free else self.waiters).append(ticket)

    @precondition(lambda self: self.holders)
    @rule(number=NUMBER)
    def release(self, number: int) -> None:
        ticket = self.holders.pop(number % len(self.holders))
        if ticket in self.upgrading:
            self.upgrading.remove(ticket)
        self.give_back(ticket)

    @precondition(lambda self: self.waiters)
    @rule(number=NUMBER)
    def withdraw(self, number: int) -> None:
        self.give_back(self.waiters.pop(number % len(self.waiters)))

    @precondition(lambda self: self.gone)
    @rule(number=NUMBER)
    def release_again(self, number: int) -> None:
        self.queue.release(self.gone[number % len(self.gone)], now=self.now)

    @precondition(lambda self: self.readers())
    @rule(number=NUMBER)
    def upgrade(self, number: int) -> None:
        self.now += 1
        ticket = self.readers()[number % len(self.readers())]
        at_once = not self.single_writer or self.writer() is None
        assert self.queue.upgrade(ticket, now=self.now) == at_once
        if not at_once:
            self.upgrading.append(ticket)
        elif self.single_writer:
            self.writes.add(ticket)

    @precondition(lambda self: self.upgrading)
    @rule(number=NUMBER)
    def abandon_upgrade(self, number: int) -> None:
        ticket = self.upgrading.pop(number % len(self.upgrading))
        assert self.queue.abandon_upgrade(ticket)
        assert not self.queue.abandon_upgrade(ticket)

    @invariant()
    def agree(self) -> None:
        assert list(self.queue.held) == self.holders
        assert self.queue.waiting == len(self.waiters)
        assert {one for one in self.holders if one.writer} == self.writes & set(self.holders)
        assert all(one.granted is not None for one in self.holders)
        assert all(one.granted is None for one in self.waiters)
        assert self.woken == self.expected_woken  # each once, in order, and nobody else
        assert {one for one in self.gone if one.refusal is not None} == self.displaced
        assert not any(one.refusal is not None for one in self.holders + self.waiters)

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.queue.held) <= self.places
        assert self.queue.waiting <= self.max_waiting
        if self.single_writer:
            assert sum(one.writer for one in self.queue.held) <= 1

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        full = len(self.holders) == self.places
        assert full or all(one in self.writes for one in self.waiters)
        if self.upgrading or not full:
            assert self.writer() is not None or not (self.upgrading or self.waiters)

    def writer(self) -> Ticket | None:
        return next((one for one in self.holders if one in self.writes), None)

    def readers(self) -> list[Ticket]:
        return [one for one in self.holders if one not in self.writes and one not in self.upgrading]

    def give_back(self, ticket: Ticket) -> None:
        self.now += 1
        self.gone.append(ticket)
        self.queue.release(ticket, now=self.now)
        if self.upgrading and self.writer() is None:
            first = self.upgrading.pop(0)
            self.writes.add(first)
            self.expected_woken.append(first)
        while len(self.holders) < self.places:
            able = [one for one in self.waiters if one not in self.writes or self.writer() is None]
            if not able:
                return
            first = min(able, key=turn)
            self.waiters.remove(first)
            self.holders.append(first)
            self.expected_woken.append(first)


TestAdmissionQueue = AdmissionModel.TestCase
TestAdmissionQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_holder_that_leaves_while_it_waits_to_write_leaves_nothing_behind() -> None:
    queue = AdmissionQueue(places=3, max_waiting=3, single_writer=True)
    writer = queue.request(writer=True, owner=ME, now=0)
    reader = queue.request(writer=False, owner=ME, now=1)
    assert not queue.upgrade(reader, now=2)
    queue.release(reader, now=3)  # its thread was interrupted while it waited
    queue.release(writer, now=4)
    assert queue.request(writer=True, owner=ME, now=5).granted == 5


def busy(queue: AdmissionQueue, *, hold: float, times: int = 100) -> float:
    """Hold a place again and again; give the time after that."""
    now = 0.0
    for _ in range(times):
        ticket = queue.request(writer=False, owner=ME, now=now)
        now += hold
        queue.release(ticket, now=now)
    return now


def test_who_is_refused_is_told_when_the_queue_will_have_moved() -> None:
    queue = AdmissionQueue(places=4, max_waiting=79, single_writer=False)
    now = busy(queue, hold=0.5)
    for _ in range(4 + 79):
        queue.request(writer=False, owner=ME, now=now)
    assert queue.expected_wait(writer=False, now=now) == pytest.approx(80 * 0.5 / 4, rel=0.01)
    with pytest.raises(QueueFull) as refused:
        queue.request(writer=False, owner=ME, now=now)
    assert refused.value.retry_after == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(("hold", "expected"), [(0.001, 1), (1000.0, LONGEST_RETRY)])
def test_nobody_is_told_to_come_back_at_once_or_never(hold: float, expected: float) -> None:
    queue = AdmissionQueue(places=1, max_waiting=0, single_writer=False)
    now = busy(queue, hold=hold)
    queue.request(writer=False, owner=ME, now=now)
    with pytest.raises(QueueFull) as refused:
        queue.request(writer=False, owner=ME, now=now)
    assert refused.value.retry_after == expected


def test_holders_that_keep_their_places_count_before_any_is_given_back() -> None:
    queue = AdmissionQueue(places=2, max_waiting=0, single_writer=False)
    for _ in range(2):
        queue.request(writer=False, owner=ME, now=0)
    with pytest.raises(QueueFull) as refused:
        queue.request(writer=False, owner=ME, now=30)
    assert refused.value.retry_after == 15


def test_writers_of_a_database_with_one_writer_wait_for_each_other_only() -> None:
    queue = AdmissionQueue(places=10, max_waiting=100, single_writer=True)
    now = busy(queue, hold=1.0)
    for _ in range(6):
        queue.request(writer=True, owner=ME, now=now)
    assert queue.expected_wait(writer=True, now=now) == pytest.approx(6, rel=0.01)
    assert queue.expected_wait(writer=False, now=now) == pytest.approx(0.1, rel=0.01)
