"""The threads of sync sessions: results, context, cancellation, and that nobody waits for a thread for ever."""

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from fastapi_database import Database
from fastapi_database.core import threads as module
from fastapi_database.core.queue import Named
from fastapi_database.core.threads import Threads

PATIENCE = 30.0
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")
pytestmark = pytest.mark.anyio


class OnPurposeError(Exception):
    pass


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(4)
    yield threads
    threads.close()


async def test_a_function_gives_its_result_and_its_error_and_sees_the_context(threads: Threads) -> None:
    VARIABLE.set("mine")
    assert await threads.run(VARIABLE.get) == "mine"
    assert await threads.run(threading.current_thread) is not threading.current_thread()
    assert await threads.run(dict, {"a": 1}) == {"a": 1}

    def fail() -> None:
        raise OnPurposeError

    with pytest.raises(OnPurposeError):
        await threads.run(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(next, iter([]))


class Work:
    """A function that says when it has begun and goes on when it is told to."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.through = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        self.through.set()
        return "through"


async def fail_cancelled(threads: Threads, fail: Callable[[], None]) -> None:
    """Cancel the run of a function, and let the function fail then."""
    work = Work()

    def run() -> None:
        work()
        fail()

    task = asyncio.create_task(threads.run(run))
    await until(work.begun)
    task.cancel()
    work.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_native_cancellation_waits_for_the_function(threads: Threads, times: int) -> None:
    work = Work()
    task = asyncio.create_task(threads.run(work))
    await until(work.begun)
    for _ in range(times):
        task.cancel()
        await settle()
        assert not task.done()
    work.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.through.is_set()


async def test_a_cancellation_by_anyio_waits_for_the_function(threads: Threads) -> None:
    work = Work()
    left: list[bool] = []

    async def run() -> None:
        try:
            await threads.run(work)
        finally:
            left.append(work.through.is_set())

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(work.begun)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await settle()
            assert left == []
            work.go_on.set()
    assert left == [True]


async def test_a_deadline_of_anyio_waits_for_the_function(threads: Threads) -> None:
    work = Work()
    timer = threading.Timer(0.2, work.go_on.set)
    timer.start()
    with anyio.move_on_after(0.05) as scope:
        await threads.run(work)
    assert scope.cancelled_caught
    assert work.through.is_set()
    timer.join()


async def test_an_error_of_a_cancelled_function_is_not_reported_as_unheard(
    threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OnPurposeError

    await fail_cancelled(threads, fail)
    assert caplog.records == []


async def test_functions_that_wait_for_each_other_all_run(threads: Threads) -> None:
    together = threading.Barrier(4)
    assert sorted(await asyncio.gather(*(threads.run(together.wait, PATIENCE) for _ in range(4)))) == [0, 1, 2, 3]


async def test_functions_that_wait_all_run_while_the_process_computes(threads: Threads) -> None:
    together, stop = threading.Barrier(4), threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    computing = threading.Thread(target=compute)
    computing.start()
    try:
        await asyncio.gather(*(threads.run(together.wait, PATIENCE) for _ in range(4)))
    finally:
        stop.set()
        computing.join()


class Running:
    """A function that counts how many of it run at once."""

    def __init__(self) -> None:
        self.now, self.most, self._lock = 0, 0, threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.002)  # the work
        with self._lock:
            self.now -= 1


def pretend(monkeypatch: pytest.MonkeyPatch, *, computing: bool) -> None:
    """Have the process seem to compute, or to wait, all the time."""
    used = time.monotonic if computing else lambda: 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.monotonic, process_time=used))


async def test_two_run_at_once_while_the_process_computes(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", PATIENCE)  # on a busy machine anything may take long
    pretend(monkeypatch, computing=True)
    running = Running()
    await asyncio.gather(*(threads.run(running) for _ in range(100)))
    assert running.most == 2


async def test_it_is_two_again_when_the_process_computes_after_it_waited(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", PATIENCE)
    pretend(monkeypatch, computing=False)
    running = Running()
    await asyncio.gather(*(threads.run(running) for _ in range(100)))
    assert running.most == 4
    pretend(monkeypatch, computing=True)
    for _ in range(20):  # four at a time, so that no call ever waits
        running.most = 0
        await asyncio.gather(*(threads.run(running) for _ in range(4)))
    assert running.most == 2


async def test_calls_do_not_wait_behind_slow_ones_while_the_process_computes(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, computing=True)
    slow = [Work(), Work()]
    tasks = [asyncio.create_task(threads.run(work)) for work in slow]
    for work in slow:
        await until(work.begun)
    await asyncio.wait_for(threads.run(int), PATIENCE)
    for work in slow:
        work.go_on.set()
    await asyncio.gather(*tasks)


async def test_no_more_than_size_run_at_once_and_all_are_served(threads: Threads) -> None:
    running = Running()
    await asyncio.gather(*(threads.run(running) for _ in range(200)))
    assert (running.now, 1 <= running.most <= 4) == (0, True)


async def test_a_cancelled_call_that_has_not_begun_still_runs_and_then_is_cancelled(threads: Threads) -> None:
    works = [Work() for _ in range(4)]
    blocking = [asyncio.create_task(threads.run(work)) for work in works]
    for work in works:
        await until(work.begun)
    late = Work()
    late.go_on.set()
    waiting = asyncio.create_task(threads.run(late))
    await settle()
    waiting.cancel()
    await settle()
    for work in works:
        work.go_on.set()
    await asyncio.gather(*blocking)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert late.through.is_set()


async def test_threads_work_again_after_close_and_end_with_it(threads: Threads) -> None:
    before = set(threading.enumerate())
    assert await threads.run(int) == 0
    threads.close()
    assert await threads.run(int) == 0
    threads.close()
    threads.close()
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 5.0)
        assert not thread.is_alive()


async def test_a_thread_that_was_busy_when_they_were_closed_ends_afterwards(threads: Threads) -> None:
    before = set(threading.enumerate())
    work = Work()
    task = asyncio.create_task(threads.run(work))
    await until(work.begun)
    mine = {one for one in set(threading.enumerate()) - before if one.name.startswith("fastapi-database")}
    threads.close()
    work.go_on.set()
    assert await task == "through"
    for thread in mine:
        await asyncio.to_thread(thread.join, 5.0)
        assert not thread.is_alive()


def test_several_event_loops_share_them() -> None:
    threads = Threads(2)
    failures: list[BaseException] = []

    async def work() -> None:
        assert await asyncio.gather(*(threads.run(abs, -n) for n in range(100))) == list(range(100))

    def loop() -> None:
        try:
            for _ in range(3):
                asyncio.run(work())
        except BaseException as error:
            failures.append(error)

    loops = [threading.Thread(target=loop) for _ in range(3)]
    for one in loops:
        one.start()
    for one in loops:
        one.join(PATIENCE)
    threads.close()
    assert failures == []


async def settle() -> None:
    """Let every task do what it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_idle_thread_keeps_nothing_of_what_it_ran_last(threads: Threads) -> None:
    class Value: ...

    def use(_: Value) -> Value:
        return Value()

    value = Value()
    kept = [weakref.ref(value), weakref.ref(await threads.run(use, value))]
    del value
    deadline = time.monotonic() + 5
    while any(one() for one in kept) and time.monotonic() < deadline:  # the thread is about to wait
        await asyncio.sleep(0.001)
        gc.collect()
    assert [one() for one in kept] == [None, None]


async def test_a_cancelled_call_keeps_nothing_of_the_error_it_ended_with(threads: Threads) -> None:
    class Value: ...

    kept: list[weakref.ref[Value]] = []

    def fail() -> None:
        value = Value()  # a traceback has it
        kept.append(weakref.ref(value))
        raise OnPurposeError

    gc.disable()
    try:
        await fail_cancelled(threads, fail)
        deadline = time.monotonic() + 5
        while kept[0]() is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        assert kept[0]() is None
    finally:
        gc.enable()


async def test_a_thread_that_can_not_be_started_is_an_error_of_its_call(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await asyncio.wait_for(threads.run(int), PATIENCE)
    assert await threads.run(int) == 0


def test_calls_of_several_event_loops_that_wait_let_all_threads_in() -> None:
    threads, running, together = Threads(4), Running(), threading.Barrier(2)

    async def clients() -> None:
        await asyncio.to_thread(together.wait, PATIENCE)

        async def client() -> None:
            for _ in range(50):
                await threads.run(running)

        await asyncio.gather(*(client() for _ in range(4)))

    loops = [threading.Thread(target=asyncio.run, args=(clients(),)) for _ in range(2)]
    for one in loops:
        one.start()
    for one in loops:
        one.join(PATIENCE)
    threads.close()
    assert (running.now, running.most) == (0, 4)


async def test_a_function_reaches_its_event_loop_through_anyio(threads: Threads) -> None:
    loop = asyncio.get_running_loop()

    async def where(value: str) -> tuple[str, bool]:
        await asyncio.sleep(0)
        return value, asyncio.get_running_loop() is loop

    def function() -> tuple[object, object]:
        return anyio.from_thread.run(where, "there"), anyio.from_thread.run_sync(asyncio.get_running_loop)

    assert await threads.run(function) == (("there", True), loop)


async def test_a_function_can_ask_anyio_whether_it_was_cancelled(threads: Threads) -> None:
    entered, cancelled = threading.Event(), threading.Event()
    heard: list[bool] = []

    def function() -> None:
        anyio.from_thread.check_cancelled()
        entered.set()
        assert cancelled.wait(PATIENCE)
        try:
            anyio.from_thread.check_cancelled()
        except asyncio.CancelledError:
            heard.append(True)

    with anyio.CancelScope() as scope:
        task = asyncio.create_task(asyncio.to_thread(entered.wait, PATIENCE))
        task.add_done_callback(lambda _: (scope.cancel(), cancelled.set()))
        await threads.run(function)
    assert heard == [True]


def test_each_event_loop_is_reached_from_its_own_calls() -> None:
    threads = Threads(1)

    async def main() -> bool:
        there = await threads.run(anyio.from_thread.run_sync, asyncio.get_running_loop)
        return there is asyncio.get_running_loop()

    assert [asyncio.run(main()) for _ in range(3)] == [True] * 3
    threads.close()


# Threads that wait for something else are set aside.


async def test_threads_that_are_set_aside_keep_no_other_from_running(threads: Threads) -> None:
    together = threading.Barrier(20)

    def wait() -> str:
        with threads.aside(), threads.aside():
            together.wait(PATIENCE)
        return "waited"

    assert await asyncio.gather(*(threads.run(wait) for _ in range(20))) == ["waited"] * 20
    assert await threads.run(lambda: "next") == "next"
    await comes_true(lambda: len(threads._idle) <= 4 and not threads._running)


async def test_beyond_what_is_spare_a_call_keeps_its_turn(threads: Threads) -> None:
    """Four run, and three more while three of them are set aside."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        with threads.aside(spare=3):
            begun.release()
            assert go_on.wait(PATIENCE)

    calls = [asyncio.create_task(threads.run(wait)) for _ in range(20)]
    for _ in range(7):
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
    assert (len(threads._running), len(threads._aside), len(threads._waiting)) == (4, 3, 13)
    go_on.set()
    await asyncio.gather(*calls)
    await comes_true(lambda: not threads._running and not threads._aside)


async def test_a_block_that_is_left_after_its_call_counts_nobody(threads: Threads) -> None:
    def enter() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(threads.aside(spare=10))
        return stack

    stack = await threads.run(enter)
    (call,) = threads._aside
    await comes_true(lambda: call.left)
    stack.close()
    await comes_true(lambda: not threads._running and not threads._aside)


async def test_threads_of_another_database_are_set_aside_where_they_belong(threads: Threads) -> None:
    other = Threads(1)

    def wait() -> tuple[int, int]:
        with other.aside(spare=1):
            return len(threads._running), len(other._lent)

    assert await threads.run(wait) == (0, 0)
    other.close()


async def test_a_thread_of_anyio_that_is_set_aside_lets_another_run(threads: Threads) -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    before = limiter.total_tokens
    together = threading.Barrier(60)

    def wait() -> None:
        with threads.aside(spare=100), threads.aside():
            together.wait(PATIENCE)

    await asyncio.gather(*(anyio.to_thread.run_sync(wait) for _ in range(60)))
    await comes_true(lambda: limiter.total_tokens == before and not threads._lent)


async def test_threads_of_anyio_are_lent_no_more_than_what_is_spare(threads: Threads) -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    before = limiter.total_tokens
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        with threads.aside(spare=3):
            begun.release()
            assert go_on.wait(PATIENCE)

    calls = [asyncio.create_task(anyio.to_thread.run_sync(wait)) for _ in range(60)]
    for _ in range(43):
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
    await comes_true(lambda: limiter.total_tokens == before + 3)
    assert limiter.borrowed_tokens == 43
    go_on.set()
    await asyncio.gather(*calls)
    await comes_true(lambda: limiter.total_tokens == before)


@pytest.mark.parametrize(("own", "waiters"), [(True, 1), (False, 40)], ids=["own", "anyio"])
async def test_threads_that_wait_for_a_place_do_not_keep_the_one_who_has_it_from_running(
    own: bool, waiters: int
) -> None:
    resources = Database("sqlite://", max_connections=1, queue_timeout=PATIENCE)._resources
    admission, me = resources.admission, Named("me", 0)
    run = resources.threads.run if own else anyio.to_thread.run_sync

    def wait() -> None:
        admission.release(admission.acquire_blocking(writer=False, owner=me))

    place = admission.try_acquire(owner=me)
    assert place is not None
    waiting = [asyncio.create_task(run(wait)) for _ in range(waiters)]
    await comes_true(lambda: admission.waiting == waiters)
    await run(admission.release, place)
    await asyncio.gather(*waiting)
    assert admission.in_use == 0
    resources.close()


def test_elsewhere_nobody_is_set_aside(threads: Threads) -> None:
    with threads.aside(spare=1):
        assert not threads._lent
        assert not threads._aside


async def comes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
