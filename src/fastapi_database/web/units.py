"""The units of work of one request, one per ``Database``, kept in the ASGI scope."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import MutableMapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from fastapi_database.core.resources import Resources
from fastapi_database.core.unit import AsyncUnit, Intent, Kind, SyncUnit, Unit, commits
from fastapi_database.engines.deadlines import Deadline
from fastapi_database.errors import MixedSessions, UnitEnded
from fastapi_database.web import internals
from fastapi_database.web.clients import Client
from fastapi_database.web.refusals import RefusalLog

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

logger = logging.getLogger("fastapi_database")

_ENDED, _UNSETTLED = attrgetter("ended"), attrgetter("unsettled")
_INTERRUPT_AGAIN = 0.25  # seconds: a statement may have begun just when the one before was cancelled
SCOPE_KEY = "fastapi_database"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that ask for nothing to change: https://www.rfc-editor.org/rfc/rfc9110#name-safe-methods"""


class RequestUnits:
    """Opens the request's units, and finishes them together."""

    __slots__ = ("_has_sync", "_scope", "_watched", "client", "error", "finished", "gone", "log", "units")

    def __init__(self, scope: MutableMapping[str, Any], *, log: RefusalLog) -> None:
        self._scope = scope
        self.log = log
        self.units: dict[Resources, Unit] = {}
        self.error: BaseException | None = None
        """What left the endpoint or a dependency, or ended the request."""
        self.finished = False
        self.client: Client | None = None
        """The client of a request that may be given up when it goes away."""
        self.gone = False
        """Whether it has."""
        self._watched = False
        self._has_sync = False

    @property
    def failed(self) -> bool:
        """Whether an exception left the endpoint or a dependency."""
        return self.error is not None

    @property
    def pending(self) -> bool:
        """Whether a unit is open, or a swallowed error still has to be told."""
        return not all(map(_ENDED, self.units.values()))

    def has_sync_session(self) -> bool:
        """Tell whether a thread may be at work on a session of this request."""
        # Asked whenever the request waits for something; most have but one unit, or none.
        return self._has_sync and any(unit.kind is Kind.SYNC and not unit.ended for unit in self.units.values())

    @property
    def unsettled(self) -> bool:
        """Whether there is anything to commit, to roll back or to tell."""
        return any(map(_UNSETTLED, self.units.values()))

    @property
    def stored(self) -> bool:
        """Whether something of this request is stored already, whatever it is answered."""
        return any(unit.stored for unit in self.units.values())

    @property
    def priority(self) -> int:
        """What the endpoint asked for, when it has to wait."""
        return internals.options_of(self._scope.get("endpoint")).priority

    @property
    def location(self) -> str:
        """Where the endpoint stands."""
        return internals.location(self._scope.get("endpoint"))

    def __str__(self) -> str:
        """Name the request for messages: method and route."""
        method = self._scope.get("method", "WebSocket")
        return f'"{method} {internals.route_path(self._scope)}"'

    async def sync_session(self, resources: Resources) -> Session:
        """Give the request's sync session, the same one however often it is asked for."""
        unit = self.units.get(resources)
        if unit is None:
            intent = self._intent()
            self._refuse_late()
            writer = intent is Intent.WRITE
            deadline = self._deadline()
            ticket = await resources.admission.acquire_async(
                writer=writer, owner=self, deadline=deadline, on_wait=self._watch_client
            )
            try:
                self._watch_client()
                self._refuse_gone()
                unit = resources.sync_unit(owner=self, intent=intent, ticket=ticket, deadline=deadline)
            except BaseException:
                resources.admission.release(ticket)
                raise
            self.watch()
            self.units[resources] = unit
            self._has_sync = True
        if not isinstance(unit, SyncUnit):
            raise self._mixed()
        unit.refuse_if_ended()
        return unit.session

    def async_session(self, resources: Resources) -> AsyncSession:
        """Give the request's async session, the same one however often it is asked for."""
        unit = self.units.get(resources)
        if unit is None:
            self._refuse_late()
            self._refuse_gone()
            self._watch_client()
            self.watch()
            unit = resources.async_unit(owner=self, intent=self._intent(), deadline=self._deadline())
            self.units[resources] = unit
            return unit.async_session
        if not isinstance(unit, AsyncUnit):
            raise self._mixed()
        unit.refuse_if_ended()
        return unit.async_session

    def end(self) -> None:
        """End units that are not :attr:`unsettled`."""
        self.finished = True
        for unit in self.units.values():
            unit.end()

    async def finish(self, *, commit: bool) -> None:
        """Finish every unit, in the order they were opened. The first failure rolls back the rest and is raised."""
        self.finished = True
        if commit:
            await checkpoint_if_cancelled()  # a deadline that has passed must not end in a commit
        durable: list[Resources] = []
        failure: BaseException | None = None
        if commit and len(self.units) > 1:
            failure = await self._flush()
        for resources, unit in self.units.items():
            stores = commit and failure is None and unit.needs_io
            try:
                await _finish(resources, unit, commit=commit and failure is None)
            except BaseException as error:  # noqa: BLE001 - raised below, after the others were rolled back
                failure = failure or error
            else:
                if stores:
                    durable.append(resources)
        if failure is not None:
            if durable:
                stored = ", ".join(resources.dialect.describe() for resources in durable)
                logger.error("%s failed, but is stored in %s", self, stored)
            raise failure

    async def _flush(self) -> BaseException | None:
        """Have every database accept its statements before the first one commits."""
        for resources, unit in self.units.items():
            if (doomed := unit.doomed) is not None:
                return doomed
            if not unit.needs_io:
                continue
            try:
                if isinstance(unit, AsyncUnit):
                    await unit.async_session.flush()
                else:
                    await resources.threads.run(unit.session.flush)
            except BaseException as error:  # noqa: BLE001 - raised by finish(), after everything was rolled back
                return error
        return None

    def close(self) -> None:
        """Let go of the request, of which only the name is kept, and of the units, which know their owner.

        Whoever keeps a session is told that it has ended. Cycles would wait for the garbage collector.
        """
        self.finished = True
        self.client = self.error = None
        self._scope = internals.name_of(self._scope)
        self.units.clear()

    async def abandon(self) -> None:
        """Roll back what is left when a request ends without an answer. Not interrupted by a cancellation."""
        with anyio.CancelScope(shield=True):
            await self.finish(commit=False)

    async def interrupt(self) -> None:
        """Cancel what runs for a client that has gone away, until nothing does any more."""
        while units := [unit for unit in self.units.values() if not unit.ended]:
            for unit in units:
                await unit.interrupt()
            await asyncio.sleep(_INTERRUPT_AGAIN)

    def asked_in(self, scope: MutableMapping[str, Any]) -> None:
        """Note the scope in which a session was asked for: a middleware of a mounted application may have copied it."""
        if not self.finished:
            self._scope = scope

    def watch(self) -> None:
        """From now on, note the exception that leaves the endpoint."""
        if not self._watched:
            self._watched = internals.on_error(self._scope, self.fail)

    def fail(self, error: BaseException) -> None:
        """Note that an exception left the endpoint: whatever its handler answers, nothing is stored."""
        self.error = error

    def commits(self, status: int) -> bool:
        """Decide how the units of this request end when it is answered with ``status``."""
        options = internals.options_of(self._scope.get("endpoint"))
        error = self.error
        if isinstance(error, Exception) and internals.exception_handler(self._scope, error) is None:
            return False  # nobody answered it: this is not the error the endpoint meant
        return commits(status=status, failed=self.failed, commit_on=options.commit_on)

    def _deadline(self) -> Deadline | None:
        timeout = internals.options_of(self._scope.get("endpoint")).timeout
        return None if timeout is None else Deadline.after(timeout)

    def _watch_client(self) -> None:
        if self.client is not None:
            self.client.watch()

    def _refuse_gone(self) -> None:
        if self.gone:
            raise UnitEnded(f"the client of {self} went away before it was answered: nothing is done for it")

    def _refuse_late(self) -> None:
        if self.finished:
            raise UnitEnded(
                f"the session of {self} was asked for after the answer had begun; work that outlives the request "
                "opens its own unit: `with db.begin() as session:` (or `async with`)"
            )

    def _intent(self) -> Intent:
        method = self._scope.get("method")
        return Intent.UNKNOWN if method is None or method in SAFE_METHODS else Intent.WRITE

    def _mixed(self) -> MixedSessions:
        return MixedSessions(
            f"{self} asked for a sync and an async session of one Database: two sessions are two transactions, "
            "and a request that holds one connection while it waits for another can deadlock. Use one kind in the "
            "endpoint and in all its dependencies"
        )


async def _finish(resources: Resources, unit: Unit, *, commit: bool) -> None:
    if isinstance(unit, AsyncUnit):
        await unit.afinish(commit=commit)
    elif unit.unsettled:
        finish = functools.partial(unit.finish, commit=commit)
        await resources.threads.run(finish, on_cancel=unit.cancel, always=not commit)
    else:
        unit.end()
