"""``/live`` and ``/ready``, for whoever decides whether this process gets requests."""

from __future__ import annotations

import asyncio
import logging
import time

from fastapi import APIRouter, Response

from fastapi_database.core.queue import Named
from fastapi_database.core.resources import Resources
from fastapi_database.web import problems

logger = logging.getLogger("fastapi_database")

ANSWERED_WITHIN = 0.2
"""Seconds an answer of the database counts as proof that it can be reached. Short, because a probe costs little."""

PROBE_TIMEOUT = 0.7
"""Seconds a probe may take. Together with the above below the second in which ``/ready`` must have turned."""


def health_router(resources: Resources) -> APIRouter:
    """Build the router; see :meth:`Database.health`."""
    router = APIRouter(tags=["health"])
    probe = Probe(resources)

    @router.get("/live")
    async def live() -> dict[str, str]:
        """Answer 200 while the process can answer at all, whatever the database does."""
        return {"status": "live"}

    @router.get("/ready", responses={503: {"description": "The database can not be reached"}})
    async def ready(response: Response) -> dict[str, str]:
        """Answer 200 while the database can be reached, busy or not; 503 otherwise."""
        if await probe.reachable():
            return {"status": "ready"}
        response.status_code = 503
        response.headers["Retry-After"] = "1"
        return {"status": "unreachable"}

    return router


class Probe:
    """Asks the database whether it is there: at most one question at a time, and none while it answers others."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._running: asyncio.Task[bool] | None = None
        self._asked = float("-inf")
        self._result = False
        self._told: set[type[Exception]] = set()

    async def reachable(self) -> bool:
        """Tell whether the database answered something, or answers now."""
        now = time.monotonic()
        if now - self._resources.connections.last_answer.at < ANSWERED_WITHIN:
            return True
        if now - self._asked < ANSWERED_WITHIN:
            return self._result
        task = self._running
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._running = asyncio.create_task(self._ask())
        # Some questions can not be given up at once: a driver's thread that waits for SQLite's lock goes on.
        await asyncio.wait({task}, timeout=PROBE_TIMEOUT)
        return task.done() and not task.cancelled() and task.result()

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                self._result = await self._question()
                self._told.clear()
        except Exception as error:  # noqa: BLE001 - whatever it is, the database did not answer
            self._result = False
            self._tell(error)
        self._asked = time.monotonic()
        return self._result

    def _tell(self, error: Exception) -> None:
        """Say why the database is not ready: each reason once, until it is ready again."""
        if type(error) not in self._told:
            self._told.add(type(error))
            reason = "no answer in time" if isinstance(error, TimeoutError) else problems.first_line(error)
            logger.warning("not ready: %s", reason)

    async def _question(self) -> bool:
        ticket = self._resources.admission.try_acquire(owner=Named("the readiness probe"))
        if ticket is None:  # every connection is busy: that is no reason to take the process out of service
            return await self._resources.connections.address_answers()
        try:
            return await self._resources.connections.probe()
        finally:
            self._resources.admission.release(ticket)
