"""What one ``Database`` owns, in one place: dialect, connections, queue, threads, counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi_database.config import Settings
from fastapi_database.core import limits
from fastapi_database.core.admission import Admission
from fastapi_database.core.cancellation import let_result_stand, nothing
from fastapi_database.core.connections import Connections
from fastapi_database.core.fork import watch_forks
from fastapi_database.core.leaks import Leaks
from fastapi_database.core.queue import Named, Owner, Ticket
from fastapi_database.core.stacks import line_of
from fastapi_database.core.threads import Threads
from fastapi_database.core.unit import AsyncUnit, Counters, Intent, Services, SyncUnit, Unit
from fastapi_database.engines import dialect_for
from fastapi_database.engines.deadlines import Deadline


class Resources:
    """Owned by one ``Database``, used by the code of this library that serves it; opens units of work."""

    def __init__(self, settings: Settings) -> None:
        from fastapi_database.core.session import Sessions  # noqa: PLC0415 - not with the package: see there

        self.settings = settings
        self.dialect = dialect_for(settings.url, settings.limits)
        if settings.transaction_pooler:
            self.dialect.use_transaction_pooler(settings.engine_options.get("connect_args", {}))
        self.dialect.configure(settings)
        self.connections = Connections(self.dialect, settings)
        self.threads = Threads(settings.max_connections)
        self.admission = Admission(
            places=settings.max_connections,
            max_waiting=settings.max_waiting,
            timeout=settings.queue_timeout,
            single_writer=self.dialect.single_writer,
            aside=self.threads.aside,
            target=settings.queue_target,
        )
        self.leaks = Leaks(self.admission, after=settings.hold_warning or None, line_of=_finder(self.connections))
        self.counters = Counters()
        self.serving = False
        """True while an application answers requests, when a sync session on the event loop is refused."""
        # Loaded attributes stay readable after the commit, without a statement; an application that wants
        # SQLAlchemy's own default passes expire_on_commit=True.
        sessions = Sessions({"expire_on_commit": False, **settings.session_options})
        self._services = Services(
            self.connections, self.admission, sessions, self.counters, self.leaks.abandoned, self._not_serving
        )
        watch_forks(self)

    def before_fork(self) -> None:
        """Let go of what a child must not have a copy of; see core/fork.py."""
        self.connections.before_fork()

    def begin_anew(self) -> None:
        """Leave to the parent what is its own. Units that are open in the child can only end."""
        self.dialect.begin_anew()
        self.connections.begin_anew()
        self.admission.begin_anew()
        self.threads.begin_anew()
        self.leaks.begin_anew()
        self.counters.commits = self.counters.rollbacks = 0
        self.serving = False

    def sync_unit(
        self, *, owner: Owner, intent: Intent, ticket: Ticket | None = None, deadline: Deadline | None = None
    ) -> SyncUnit:
        """Open a unit for a thread; that of a request brings its ``ticket``, and its COMMIT is always told."""
        if not self.leaks.watching:
            self.leaks.start()
        on_success = nothing if ticket is None else let_result_stand
        return SyncUnit(
            self._services, owner=owner, intent=intent, ticket=ticket, deadline=deadline, on_success=on_success
        )

    def async_unit(self, *, owner: Owner, intent: Intent, deadline: Deadline | None = None) -> AsyncUnit:
        """Open a unit for a task; it takes its place at the first statement."""
        if not self.leaks.watching:
            self.leaks.start()
        return AsyncUnit(self._services, owner=owner, intent=intent, deadline=deadline)

    def opened(self, unit: Unit) -> bool:
        """Tell whether a unit is one of this ``Database``."""
        return unit.is_of(self._services)

    async def look_at_limits(self, *, processes: int | None) -> None:
        """Warn in the log when all processes together may open more connections than the server has for them.

        Asks the server one question, when there are enough of them to matter, and gives up after some seconds. Raises
        nothing but a cancellation.
        """
        most, question = self.settings.max_connections, self.dialect.room_question
        if question is None or (processes or 1) * most <= limits.FEW:
            return
        ticket = self.admission.try_acquire(owner=Named("the look at the server's limits"))
        if ticket is None:  # it is busy already
            return
        try:
            async with asyncio.timeout(limits.PATIENCE):
                row = (await self.connections.ask(question))[0]
            told = limits.warning(limits.Room(*row), processes=processes, max_connections=most)
            if told is not None:
                limits.logger.warning("%s: %s", self.dialect.describe(), told)
        except Exception as error:  # noqa: BLE001 - a server that can not be reached says so to the first request
            limits.logger.debug("the server's limits could not be read: %r", error)
        finally:
            self.admission.release(ticket)

    async def pause(self) -> None:
        """Close everything that a later use can open again: the end of a lifespan."""
        await self.connections.aclose()
        self.threads.close()
        self.leaks.close()

    def close(self) -> None:
        """Close everything; a later use opens again, but memory is gone."""
        self.connections.close()
        self.threads.close()
        self.leaks.close()
        self.dialect.close()

    def _not_serving(self) -> bool:
        # A server imports the application on its event loop, where a module may well seed its tables.
        return not self.serving


def _finder(connections: Connections) -> Callable[[Owner], str | None]:
    return lambda owner: line_of(owner, connections.loops())
