"""The admission queue against a model of it: every order of claims, withdrawals, releases, upgrades and shedding."""

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastapi_database.core.queue import LONGEST_RETRY, AdmissionQueue, Named, Ticket
from fastapi_database.core.shedding import Shedding
from fastapi_database.errors import QueueFull, QueueShed

NUMBER = st.integers(0, 1000)
ME = Named("me")


def turn(ticket: Ticket) -> tuple[int, int]:
    return (-ticket.priority, ticket.number)


class Verdict(Shedding):
    """Stands when it is told to."""

    def _judge(self, now: float) -> None: ...


class AdmissionModel(RuleBasedStateMachine):
    """Holders and waiters as plain lists; who is served next is worked out anew each time.

    Whether a line stands is decided by a rule (``test_shedding.py`` is about what decides it); who is shed then is
    worked out.
    """

    @initialize(
        places=st.integers(1, 4),
        max_waiting=st.integers(0, 6),
        single_writer=st.booleans(),
        queue_target=st.sampled_from([0.6, 2.0]),
    )
    def start(self, places: int, max_waiting: int, single_writer: bool, queue_target: float) -> None:
        self.places, self.max_waiting, self.single_writer = places, max_waiting, single_writer
        self.target = queue_target
        self.queue = AdmissionQueue(
            places=places, max_waiting=max_waiting, single_writer=single_writer, target=queue_target
        )
        self.verdicts = {writes: Verdict(target=queue_target) for writes in (False, True)}
        self.queue._readers.shedding, self.queue._writers.shedding = self.verdicts.values()
        self.now = 0.0
        self.holders: list[Ticket] = []
        self.waiters: list[Ticket] = []
        self.upgrading: list[Ticket] = []
        self.gone: list[Ticket] = []
        self.woken: list[Ticket] = []
        self.expected_woken: list[Ticket] = []
        self.writes: set[Ticket] = set()
        self.displaced: set[Ticket] = set()
        self.shed: set[Ticket] = set()
        self.deaf: set[Ticket] = set()

    @rule(writer=st.booleans(), priority=st.integers(-1, 1))
    def request(self, writer: bool, priority: int) -> None:
        self.now += 1
        owner = Named("me", priority)
        writes = writer and self.single_writer
        ahead = [one for one in self.waiters if (one in self.writes) == writes]
        free = len(self.holders) < self.places and not ahead
        if writes:
            free = free and self.writer() is None and not self.upgrading
        ticket, refusal = self.claim(writer, owner)
        if not free:
            self.shed_from(writes)
            if len(self.waiters) >= self.max_waiting:
                last = max(self.waiters, key=turn, default=None)
                if last is None or last.priority >= priority:
                    assert f"{len(self.waiters)} requests wait" in refusal
                    return
                self.leave(last, self.displaced)
            else:
                line = [one for one in self.waiters if (one in self.writes) == writes]
                if len(line) >= max(self.verdicts[writes].room, 1 if writes else self.places):
                    last = max(line, key=turn)
                    if last.priority >= priority:
                        assert f"{len(line)} requests wait already" in refusal
                        return
                    self.leave(last, self.shed)
        assert ticket is not None, refusal

        def wake() -> bool:
            if ticket in self.deaf:
                return False
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
    def close_the_loop_of(self, number: int) -> None:
        self.deaf.add(self.waiters[number % len(self.waiters)])

    @rule(writes=st.booleans(), standing=st.booleans(), room=st.sampled_from([0.5, 3.0, inf]))
    def judge(self, writes: bool, standing: bool, room: float) -> None:
        self.verdicts[writes].standing = standing
        self.verdicts[writes].room = room if standing else inf

    @precondition(lambda self: self.waiters)
    @rule(number=NUMBER)
    def meet_the_deadline(self, number: int) -> None:
        self.give_back(self.waiters.pop(number % len(self.waiters)), how=self.queue.expire)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.5, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

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
        refused = {one: one.refusal for one in self.gone if one.refusal is not None}
        assert {one for one, refusal in refused.items() if isinstance(refusal, QueueFull)} == self.displaced
        assert {one for one, refusal in refused.items() if isinstance(refusal, QueueShed)} == self.shed
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

    def claim(self, writer: bool, owner: Named) -> tuple[Ticket | None, str]:
        try:
            return self.queue.request(writer=writer, owner=owner, now=self.now), ""
        except (QueueFull, QueueShed) as refusal:
            return None, str(refusal)

    def shed_from(self, writes: bool) -> None:
        """Have those who have waited too long make room for a claim that comes, the lowest priority first."""
        line = [one for one in self.waiters if (one in self.writes) == writes]
        if not self.verdicts[writes].standing:
            return
        late = [one for one in line if self.now - one.requested > 2 * self.target]
        for one in sorted(late, key=lambda one: (one.priority, one.number))[:1]:
            self.leave(one, self.shed)

    def leave(self, ticket: Ticket, why: set[Ticket]) -> None:
        self.waiters.remove(ticket)
        self.gone.append(ticket)
        why.add(ticket)
        if ticket not in self.deaf:
            self.expected_woken.append(ticket)

    def give_back(self, ticket: Ticket, how: Callable[..., None] | None = None) -> None:
        self.now += 1
        self.gone.append(ticket)
        (how or self.queue.release)(ticket, now=self.now)
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
            if first in self.deaf:
                self.gone.append(first)
            else:
                self.holders.append(first)
                self.expected_woken.append(first)


TestAdmissionQueue = AdmissionModel.TestCase
TestAdmissionQueue.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


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
