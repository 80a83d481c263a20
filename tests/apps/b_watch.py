"""A look inside an application under test, and moments that its requests and the test wait for together."""

import asyncio
import dataclasses
import gc
import threading
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from fastapi_database import Database
from fastapi_database.core.threads import Threads

PATIENCE = 60.0


class Watch:
    """Counts what all engines of this process do, and shows it under `/watch`."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.counts: Counter[str] = Counter()
        self.peak = 0
        self.most_open = 0
        self._open: set[int] = set()
        self.statements: list[str] = []
        self._lock = threading.Lock()
        self._moments: defaultdict[str, Future[Any]] = defaultdict(Future)
        event.listen(Engine, "before_cursor_execute", self._statement)
        for name in ("checkout", "connect"):
            event.listen(Pool, name, self._counter(name))
        event.listen(Pool, "connect", self._opened)
        event.listen(Pool, "close", self._closed)
        Threads.run = self._counting_hops(Threads.run)
        ThreadPoolExecutor.submit = self._counting_hops(ThreadPoolExecutor.submit)
        anyio.to_thread.run_sync = self._counting_hops(anyio.to_thread.run_sync)

    def seen(self) -> dict[str, int]:
        """Give the numbers of `db.stats()` and those counted here."""
        stats = dataclasses.asdict(self.db.stats())
        with self._lock:
            return {
                **stats,
                "checked_out": stats["open"] - stats["idle"],
                "checkouts": self.counts["checkout"],
                "connects": self.counts["connect"],
                "statements": self.counts["statement"],
                "peak": self.peak,
                "most_open": self.most_open,
                "hops": self.counts["hop"],
            }

    def reach(self, moment: str, value: object = None) -> None:
        """Let whoever waits for a moment go on."""
        self._moments[moment].set_result(value)

    def wait(self, moment: str) -> Any:
        """Wait for a moment in a thread."""
        return self._moments[moment].result(PATIENCE)

    async def reached(self, moment: str) -> Any:
        """Wait for a moment on the event loop."""
        async with asyncio.timeout(PATIENCE):
            return await asyncio.shield(asyncio.wrap_future(self._moments[moment]))

    def router(self) -> APIRouter:
        """Build the routes a test looks through; none of them touches the database."""
        router = APIRouter()

        @router.get("/watch")
        async def watch() -> dict[str, int]:
            return self.seen()

        @router.get("/statements")
        async def statements(containing: str) -> list[str]:
            return [one for one in self.statements if containing in one]

        @router.post("/collect")
        async def collect() -> int:
            return gc.collect()

        @router.post("/collector/{switch}")
        async def collector(switch: Literal["on", "off"]) -> None:
            (gc.enable if switch == "on" else gc.disable)()

        @router.get("/moments/{moment:path}")
        async def moment_reached(moment: str) -> Any:
            return await self.reached(moment)

        @router.post("/moments/{moment:path}")
        async def reach_moment(moment: str) -> None:
            self.reach(moment)

        @router.get("/ping")
        async def ping() -> dict[str, bool]:
            return {"pong": True}

        return router

    def _counting_hops(self, function: Any) -> Any:
        def hop(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.counts["hop"] += 1
            return function(*arguments, **options)

        return hop

    def _statement(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        with self._lock:
            self.counts["statement"] += 1
            self.statements.append(statement)

    def _opened(self, connection: object, _record: object) -> None:
        with self._lock:
            self._open.add(id(connection))
            self.most_open = max(self.most_open, len(self._open))

    def _closed(self, connection: object, _record: object) -> None:
        with self._lock:
            self._open.discard(id(connection))

    def _counter(self, name: str) -> Any:
        def count(*_: object) -> None:
            stats = self.db.stats()
            with self._lock:
                self.counts[name] += 1
                self.peak = max(self.peak, stats.open - stats.idle)

        return count
