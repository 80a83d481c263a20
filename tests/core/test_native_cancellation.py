"""Native cancellation (`asyncio.timeout`, `Task.cancel`) of a request whose `def` code runs in threads of AnyIO.

AnyIO leaves such a thread when it is cancelled natively. An error must still mean that nothing happened.
"""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import fastapi
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from apps.a_asgi import ask
from fastapi_database import Database
from fastapi_database.core.cancellation import ThreadsFirst, finish_shielded

FORMS = ["plain-endpoint", "dependency", "generator-dependency", "class-dependency", "async-endpoint"]
PLACES = 3
PATIENCE = 20.0
Cancel = Callable[[Awaitable[Any], asyncio.Event], Awaitable[None]]


class Gate:
    """Stops the thread that inserts between SQLAlchemy's last look at the connection and the driver."""

    def __init__(self) -> None:
        self.closed = False
        self.reached = threading.Event()
        self.open = threading.Event()

    def pause(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if self.closed and statement.startswith("INSERT"):
            self.reached.set()
            assert self.open.wait(PATIENCE)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def db(url: str, gate: Gate) -> Iterator[Database]:
    db = Database(url, max_connections=PLACES)
    with db.begin() as session:
        session.execute(text("CREATE TABLE notes (text TEXT)"))
    event.listen(db.engine, "before_cursor_execute", gate.pause)
    yield db
    db.close()


@pytest.fixture
def app(db: Database) -> FastAPI:
    SessionDep = Annotated[Session, Depends(db.session)]  # noqa: N806

    def write(name: str, session: SessionDep) -> None:
        for _ in range(10):
            session.execute(text("SELECT 1"))
        session.execute(text(f"INSERT INTO notes VALUES ('{name}')"))

    def write_and_yield(name: str, session: SessionDep) -> Iterator[None]:
        write(name, session)
        try:
            yield
        except BaseException:
            session.rollback()
            raise

    class Writer:
        def __init__(self, name: str, session: SessionDep) -> None:
            write(name, session)

    app = FastAPI()
    db.install(app)
    plain = fastapi.APIRouter()
    plain.post("/plain-endpoint/{name}", status_code=201)(write)
    app.include_router(plain)
    for path, dependency in (("dependency", write), ("generator-dependency", write_and_yield)):
        app.post(f"/{path}/{{name}}", status_code=201, dependencies=[Depends(dependency)])(lambda: None)
    app.post("/class-dependency/{name}", status_code=201)(lambda writer=Depends(Writer): None)  # noqa: B008

    @app.post("/async-endpoint/{name}", status_code=201, dependencies=[Depends(write)])
    async def wait(name: str) -> None:
        await asyncio.sleep(0.001)

    @app.post("/refuses/{name}", dependencies=[Depends(write)])
    async def refuse(name: str) -> None:
        raise HTTPException(400)

    return app


async def by_timeout(request: Awaitable[Any], now: asyncio.Event) -> None:
    with pytest.raises(TimeoutError):
        await within_a_timeout(request, now)


async def within_a_timeout(request: Awaitable[Any], now: asyncio.Event) -> None:
    async with asyncio.timeout(None) as scope:
        expiry = asyncio.create_task(expire(scope, now))
        await request
        await expiry


async def expire(scope: asyncio.Timeout, now: asyncio.Event) -> None:
    await now.wait()
    scope.reschedule(asyncio.get_running_loop().time())


async def by_cancel(request: Awaitable[Any], now: asyncio.Event) -> None:
    task = asyncio.ensure_future(request)
    await now.wait()
    for _ in range(2):  # a server that has lost its patience does it again
        task.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_scope(request: Awaitable[Any], now: asyncio.Event) -> None:
    with anyio.CancelScope() as scope:
        cancellation = asyncio.create_task(cancel(scope, now))
        await request
        await cancellation
    assert scope.cancelled_caught


async def cancel(scope: anyio.CancelScope, now: asyncio.Event) -> None:
    await now.wait()
    scope.cancel()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("how", [by_timeout, by_cancel, by_scope])
@pytest.mark.parametrize("form", FORMS)
def test_a_request_cancelled_in_a_thread_ends_after_the_thread_and_stores_nothing(
    app: FastAPI, db: Database, gate: Gate, form: str, how: Cancel
) -> None:
    async def main() -> None:
        gate.closed = True
        now = asyncio.Event()
        request = asyncio.create_task(cancelled(now))
        assert await asyncio.to_thread(gate.reached.wait, PATIENCE)
        now.set()
        await turns()
        assert not request.done()
        assert (db.stats().in_use, db.stats().open - db.stats().idle) == (1, 1)  # the thread still has them
        gate.open.set()
        await request
        gate.closed = False
        assert at_rest(db)
        for number in range(PLACES + 1):  # nothing of it is left for those who get the connection next
            assert (await ask(app, "POST", f"/{form}/after{number}")).status == 201

    async def cancelled(now: asyncio.Event) -> None:
        await how(ask(app, "POST", f"/{form}/ghost"), now)

    asyncio.run(main())
    assert names(db) == sorted(f"after{number}" for number in range(PLACES + 1))


@pytest.mark.parametrize("form", FORMS)
def test_of_requests_cancelled_at_random_those_that_answered_below_400_are_stored(
    app: FastAPI, db: Database, form: str
) -> None:
    chance = random.Random(form)
    told: dict[str, int] = {}

    async def one(name: str) -> None:
        try:
            async with asyncio.timeout(chance.uniform(0, 0.03)):
                started = partial(told.setdefault, name, 201)  # an exit after it can still be cancelled
                await ask(app, "POST", f"/{form}/{name}", at_start=started)
        except TimeoutError:
            told.setdefault(name, 504)

    async def main() -> None:
        for start in range(0, 100, 5):
            await asyncio.gather(*(one(f"{number}") for number in range(start, start + 5)))
        assert at_rest(db)
        assert [(await ask(app, "POST", f"/{form}/after")).status for _ in range(20)] == [201] * 20

    asyncio.run(main())
    assert set(told.values()) == {201, 504}
    stored = [name for name in names(db) if name != "after"]
    assert stored == sorted(name for name, status in told.items() if status < 400)


@pytest.mark.parametrize("how", [by_timeout, by_cancel])
def test_a_request_that_fails_in_its_thread_after_it_was_cancelled_is_cancelled(
    app: FastAPI, db: Database, gate: Gate, how: Cancel
) -> None:
    async def main() -> None:
        gate.closed = True
        now = asyncio.Event()
        request = asyncio.create_task(cancelled(now))
        assert await asyncio.to_thread(gate.reached.wait, PATIENCE)
        now.set()
        await turns()
        gate.open.set()
        await request
        assert at_rest(db)

    async def cancelled(now: asyncio.Event) -> None:
        await how(ask(app, "POST", "/refuses/me"), now)

    asyncio.run(main())
    assert names(db) == []


def at_rest(db: Database) -> bool:
    stats = db.stats()
    return (stats.in_use, stats.waiting, stats.open - stats.idle) == (0, 0, 0)


def names(db: Database) -> list[str]:
    with db.begin() as session:
        return sorted(session.scalars(text("SELECT text FROM notes")))


# What ThreadsFirst does to a coroutine, without a database.


@pytest.mark.anyio
async def test_what_is_not_in_a_thread_is_cancelled_at_once() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ThreadsFirst(asyncio.sleep(PATIENCE), holds=lambda: True)


@pytest.mark.anyio
async def test_a_cancellation_is_delivered_where_the_request_awaits_next() -> None:
    steps: list[str] = []
    release = threading.Event()

    async def request() -> None:
        try:
            await anyio.to_thread.run_sync(release.wait)
            steps.append("thread done")
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            steps.append("cancelled")
            await asyncio.sleep(0)  # once: cleaning up may await
            steps.append("cleaned up")
            raise

    task = asyncio.create_task(hold(request()))
    await asyncio.sleep(0.01)
    task.cancel("enough")
    await turns()
    assert steps == []
    release.set()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert steps == ["thread done", "cancelled", "cleaned up"]


@pytest.mark.anyio
async def test_a_cancellation_waits_for_a_child_task_as_it_does_without() -> None:
    steps: list[str] = []
    release = threading.Event()

    async def child() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0)
            steps.append("child done")

    async def request() -> None:
        task = asyncio.create_task(child())
        await anyio.to_thread.run_sync(release.wait)
        try:
            await task
        finally:
            steps.append("request done")

    task = asyncio.create_task(hold(request()))
    await asyncio.sleep(0.01)
    task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["child done", "request done"]


@pytest.mark.anyio
async def test_a_request_that_returns_before_it_awaits_again_is_cancelled_all_the_same() -> None:
    release = threading.Event()
    task = asyncio.create_task(hold(anyio.to_thread.run_sync(release.wait)))
    await asyncio.sleep(0.01)
    task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def hold(request: Any) -> None:
    await ThreadsFirst(request, holds=lambda: True)


@pytest.mark.anyio
@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_what_is_shielded_ends_however_often_it_waits(turns: int) -> None:
    done: list[str] = []

    async def work() -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        done.append("done")
        return "result"

    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await finish_shielded(work()) == "result"
        assert done == ["done"]
        await anyio.lowlevel.checkpoint()
        done.append("not cancelled")
    assert done == ["done"]


@pytest.mark.anyio
async def test_an_error_and_a_native_cancellation_come_out_of_what_is_shielded() -> None:
    seen: list[type[BaseException]] = []

    async def work() -> None:
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            seen.append(type(error))
            raise LookupError from error

    task = asyncio.create_task(finish_shielded(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(LookupError):
        await task
    assert seen == [asyncio.CancelledError]
