"""Waiting for a place, on the event loop and in a thread: the deadline, the bound, and who gives up."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import anyio
import pytest

from fastapi_database.core.admission import Admission
from fastapi_database.core.queue import Named, Ticket
from fastapi_database.errors import QueueFull, QueueTimeout

LONG = 60.0


def admission(
    *, places: int = 1, max_waiting: int = 10, timeout: float = LONG, single_writer: bool = False
) -> Admission:
    return Admission(places=places, max_waiting=max_waiting, timeout=timeout, single_writer=single_writer)


def take(gate: Admission, owner: str = "holder") -> Ticket:
    return gate.acquire_blocking(writer=False, owner=Named(owner))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.001)


class Asynchronous:
    """A claim made on the event loop."""

    async def acquire(self, gate: Admission, *, writer: bool = False, priority: int = 0) -> Ticket:
        return await gate.acquire_async(writer=writer, owner=Named("claimant", priority))


class InThread:
    """A claim made in a thread."""

    async def acquire(self, gate: Admission, *, writer: bool = False, priority: int = 0) -> Ticket:
        return await asyncio.to_thread(gate.acquire_blocking, writer=writer, owner=Named("claimant", priority))


@pytest.fixture(params=[Asynchronous, InThread])
def way(request: pytest.FixtureRequest) -> Asynchronous | InThread:
    return request.param()


@pytest.mark.anyio
async def test_a_free_place_is_taken_at_once(way) -> None:
    gate = admission(timeout=0)
    ticket = await way.acquire(gate)
    assert (gate.in_use, gate.waiting, gate.admitted) == (1, 0, 1)
    gate.release(ticket)
    gate.release(ticket)
    assert gate.in_use == 0


@pytest.mark.anyio
async def test_a_claim_waits_until_a_place_is_given_back(way) -> None:
    gate = admission()
    held = take(gate)
    claim = asyncio.create_task(way.acquire(gate))
    await until(lambda: gate.waiting == 1)
    assert not claim.done()
    gate.release(held)
    gate.release(await claim)
    assert (gate.in_use, gate.waiting, gate.timed_out) == (0, 0, 0)


@pytest.mark.anyio
async def test_the_deadline_names_who_holds_the_places(way) -> None:
    gate = admission(timeout=0.05)
    held = take(gate, owner='"GET /reports"')
    with pytest.raises(
        QueueTimeout,
        match=r"no connection after 0\.\d\d s \(max_connections 1, in use 1, waiting 1; "
        r'held by "GET /reports" for 0\.\d\d s\)',
    ):
        await way.acquire(gate)
    assert (gate.waiting, gate.timed_out, gate.in_use) == (0, 1, 1)
    gate.release(held)
    gate.release(await way.acquire(gate))


@pytest.mark.anyio
async def test_the_bound_refuses_at_once(way) -> None:
    gate = admission(max_waiting=0)
    held = take(gate)
    start = time.monotonic()
    with pytest.raises(QueueFull, match="max_waiting"):
        await way.acquire(gate)
    assert time.monotonic() - start < LONG / 10
    assert (gate.refused, gate.waiting) == (1, 0)
    gate.release(held)


@pytest.mark.anyio
async def test_a_cancelled_wait_gives_its_claim_up() -> None:
    gate = admission()
    held = take(gate)
    claim = asyncio.create_task(gate.acquire_async(writer=False, owner=Named("claimant")))
    await until(lambda: gate.waiting == 1)
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim
    assert gate.waiting == 0
    gate.release(held)
    assert gate.in_use == 0


@pytest.mark.anyio
async def test_a_wait_cancelled_by_anyio_gives_its_claim_up() -> None:
    gate = admission()
    held = take(gate)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: gate.acquire_async(writer=False, owner=Named("claimant")))
        await until(lambda: gate.waiting == 1)
        group.cancel_scope.cancel()
    assert gate.waiting == 0
    gate.release(held)
    assert gate.in_use == 0


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["grant", "cancel"])
def test_a_place_granted_to_a_cancelled_wait_goes_to_the_next(first: str, anyio_backend: str) -> None:
    async def race() -> None:
        gate = admission()
        held = take(gate)
        cancelled = asyncio.create_task(gate.acquire_async(writer=False, owner=Named("cancelled")))
        follower = asyncio.create_task(gate.acquire_async(writer=False, owner=Named("follower")))
        await until(lambda: gate.waiting == 2)
        both = [lambda: gate.release(held), cancelled.cancel]
        for step in both if first == "grant" else reversed(both):  # in one step of the event loop
            step()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        gate.release(await follower)
        assert (gate.in_use, gate.waiting) == (0, 0)

    asyncio.run(race())


@pytest.mark.anyio
async def test_a_place_granted_at_the_deadline_is_kept_or_refused_but_never_lost(way) -> None:
    gate = admission(timeout=0.005)
    for _ in range(200):
        held = take(gate)
        claim = asyncio.create_task(way.acquire(gate))
        await asyncio.sleep(0.004)  # so that both may come first
        gate.release(held)
        with suppress(QueueTimeout):
            gate.release(await claim)
        assert (gate.in_use, gate.waiting) == (0, 0)


@pytest.mark.anyio
async def test_threads_and_tasks_stand_in_one_line() -> None:
    gate = admission()
    held = take(gate)
    order: list[int] = []

    async def claim(number: int) -> None:
        way = Asynchronous() if number % 2 else InThread()
        ticket = await way.acquire(gate)
        order.append(number)
        gate.release(ticket)

    tasks: list[asyncio.Task[None]] = []
    for number in range(8):
        tasks.append(asyncio.create_task(claim(number)))
        await until(lambda: gate.waiting == len(tasks))
    gate.release(held)
    await asyncio.gather(*tasks)
    # Who was granted a place in a thread may be heard of a moment after the next on the loop.
    assert sorted(order) == list(range(8))
    assert [number for number in order if number % 2] == [1, 3, 5, 7]
    assert [number for number in order if not number % 2] == [0, 2, 4, 6]


@pytest.mark.anyio
async def test_a_reader_that_comes_to_write_waits_for_the_writer() -> None:
    gate = admission(places=3, single_writer=True)
    writer = await gate.acquire_async(writer=True, owner=Named("writer"))
    reader = await gate.acquire_async(writer=False, owner=Named("reader"))
    upgrade = asyncio.create_task(asyncio.to_thread(gate.upgrade_blocking, reader))
    following = asyncio.create_task(gate.acquire_async(writer=True, owner=Named("next writer")))
    await until(lambda: reader.upgrading and gate.waiting == 1)
    gate.release(writer)
    await upgrade
    assert reader.writer
    assert not following.done()  # the holder goes first: it keeps a place from the others
    gate.release(reader)
    gate.release(await following)
    assert gate.in_use == 0


@pytest.mark.anyio
async def test_an_upgrade_has_a_deadline_too() -> None:
    gate = admission(places=2, single_writer=True, timeout=0.05)
    writer = await gate.acquire_async(writer=True, owner=Named('"POST /slow"'))
    reader = await gate.acquire_async(writer=False, owner=Named("reader"))
    with pytest.raises(QueueTimeout, match=r'could not start writing.*"POST /slow"'):
        await asyncio.to_thread(gate.upgrade_blocking, reader)
    gate.release(writer)
    gate.upgrade_blocking(reader)
    gate.release(reader)
    assert (gate.in_use, gate.timed_out) == (0, 1)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every wait in a thread end as it does when somebody presses Ctrl-C."""

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", interrupt)
        yield


@pytest.mark.usefixtures("interrupted")
def test_an_interrupt_while_waiting_to_write_leaves_the_writers_place_free() -> None:
    gate = admission(places=2, single_writer=True)
    writer = gate.acquire_blocking(writer=True, owner=Named("writer"))
    reader = take(gate)
    with pytest.raises(KeyboardInterrupt):
        gate.upgrade_blocking(reader)
    gate.release(reader)
    gate.release(writer)
    gate.release(gate.acquire_blocking(writer=True, owner=Named("next")))  # at once: it could not wait
    assert gate.in_use == 0


@pytest.mark.usefixtures("interrupted")
def test_an_interrupt_while_waiting_for_a_place_gives_the_claim_up() -> None:
    gate = admission()
    held = take(gate)
    with pytest.raises(KeyboardInterrupt):
        take(gate)
    assert gate.waiting == 0
    gate.release(held)
    assert gate.in_use == 0


def test_two_event_loops_and_threads_share_the_places() -> None:
    gate = admission(places=2, max_waiting=1000)
    most = 0

    async def tasks() -> None:
        async def one() -> None:
            nonlocal most
            ticket = await gate.acquire_async(writer=False, owner=Named("task"))
            most = max(most, gate.in_use)
            await asyncio.sleep(0)
            gate.release(ticket)

        await asyncio.gather(*(one() for _ in range(200)))

    def threads() -> None:
        for _ in range(200):
            gate.release(take(gate))

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(asyncio.run, tasks()) for _ in range(2)] + [pool.submit(threads) for _ in range(2)]
        for one in work:
            one.result(LONG)
    assert (gate.in_use, gate.waiting, gate.admitted) == (0, 0, 800)
    assert most == 2


def test_a_loop_that_ended_while_it_waited_holds_nothing() -> None:
    gate = admission()
    held = take(gate)

    async def abandon() -> None:
        task = asyncio.create_task(gate.acquire_async(writer=False, owner=Named("abandoned")))
        await until(lambda: gate.waiting == 1)
        assert not task.done()

    asyncio.run(abandon())  # cancels what still runs
    gate.release(held)
    assert (gate.in_use, gate.waiting) == (0, 0)


def test_the_probe_never_goes_before_those_who_wait() -> None:
    gate = admission(places=2)
    first = gate.try_acquire(owner=Named("probe"))
    assert first is not None
    second = take(gate)
    assert gate.try_acquire(owner=Named("probe")) is None
    gate.release(first)
    gate.release(second)
    assert gate.in_use == 0


def test_a_place_granted_to_a_claim_whose_loop_was_closed_goes_to_the_next() -> None:
    gate = admission(timeout=0.1)
    held = take(gate)
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(gate.acquire_async(writer=False, owner=Named("gone")))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert gate.waiting == 1
    gate.release(held)
    assert (gate.in_use, gate.waiting) == (0, 0)
    gate.release(take(gate, "next"))
    abandoned.get_coro().close()  # type: ignore[union-attr]
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]
    assert gate.in_use == 0


def test_the_writers_place_granted_to_a_claim_whose_loop_was_closed_goes_to_the_next() -> None:
    gate = admission(places=3, timeout=0.1, single_writer=True)
    held = gate.acquire_blocking(writer=True, owner=Named("holder"))
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(gate.acquire_async(writer=True, owner=Named("gone")))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.release(held)
    gate.release(gate.acquire_blocking(writer=True, owner=Named("next")))
    assert gate.in_use == 0
    abandoned.get_coro().close()  # type: ignore[union-attr]
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_a_claim_of_higher_priority_goes_first(way) -> None:
    gate, order = admission(), list[str]()
    held = take(gate)

    async def claim(name: str, priority: int) -> None:
        ticket = await way.acquire(gate, priority=priority)
        order.append(name)
        gate.release(ticket)

    claims: list[asyncio.Task[None]] = []
    for name, priority in (("report", -1), ("first", 0), ("payment", 5), ("second", 0)):
        claims.append(asyncio.create_task(claim(name, priority)))
        await until(lambda: gate.waiting == len(claims))
    gate.release(held)
    await asyncio.gather(*claims)
    assert order == ["payment", "first", "second", "report"]


@pytest.mark.anyio
async def test_where_there_is_no_room_to_wait_the_last_of_lower_priority_is_refused(way) -> None:
    gate = admission(max_waiting=2)
    held = take(gate)
    claims: list[asyncio.Task[Ticket]] = []
    for priority in (0, -1):
        claims.append(asyncio.create_task(way.acquire(gate, priority=priority)))
        await until(lambda: gate.waiting == len(claims))
    payment = asyncio.create_task(way.acquire(gate, priority=5))
    with pytest.raises(QueueFull, match=r"2 requests wait .* max_waiting, and one of higher priority came"):
        await claims[1]
    with pytest.raises(QueueFull, match=r"max_waiting \[queue-full\]"):
        await way.acquire(gate, priority=0)
    assert (gate.waiting, gate.refused, gate.admitted) == (2, 2, 1)
    for claim in (payment, claims[0]):
        gate.release(held)
        held = await claim
    gate.release(held)
    assert (gate.in_use, gate.waiting, gate.admitted) == (0, 0, 3)


@pytest.mark.anyio
async def test_the_deadline_names_the_three_who_hold_longest(way) -> None:
    gate = admission(places=5, timeout=0.05)
    for number in range(5):
        take(gate, owner=f'"GET /{number}"')
    with pytest.raises(
        QueueTimeout, match=r'held by "GET /0" for \d.\d\d s, "GET /1" for .*, "GET /2" .*, and 2 more\)'
    ):
        await way.acquire(gate)


def test_a_place_that_a_finaliser_gives_back_in_the_middle_of_the_queue_is_taken_back(sqlite_url: str) -> None:
    """The garbage collector closes an abandoned generator at any moment, in a thread that has the queue's lock too."""
    script = """
import gc, sys, threading
from sqlalchemy import text
from fastapi_database import Database

db = Database(sys.argv[1], max_connections=2)

def rows():
    with db.begin() as session:
        session.scalar(text("SELECT 1"))
        yield 1

def abandon():
    left = rows()
    next(left)
    cycle = [left]
    cycle.append(cycle)

def work():
    with db.begin() as session:
        session.scalar(text("SELECT 1"))

gc.disable()
abandon()
admission = db._resources.admission
clock = admission._clock
admission._clock = lambda: (gc.collect(), clock())[1]
work()
print(db.stats().in_use)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, sqlite_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
