"""The unit of work: one session, one transaction, one decision.

Whether a session commits is decided by :func:`commits` and nowhere else. Everything here is synchronous:
an async unit runs the same code inside SQLAlchemy's greenlet, where the driver's awaits happen.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from greenlet import greenlet
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.expression import FunctionElement, SelectBase, TextClause

from fastapi_database.core.admission import REFUSALS, Admission, admitted, refused
from fastapi_database.core.cancellation import finish_despite_cancellation, finish_shielded, nothing
from fastapi_database.core.connections import Connections
from fastapi_database.core.internals import (
    attribute_being_read,
    current_greenlet,
    greenlet_spawn,
    running_loop,
)
from fastapi_database.core.queue import Owner, Ticket
from fastapi_database.engines.deadlines import Deadline
from fastapi_database.engines.transactions import ABORTED, UNKNOWN, UnitEngine, UnitTransaction, unit_transaction
from fastapi_database.errors import (
    ConcurrentUse,
    DeadlineExceeded,
    FastAPIDatabaseError,
    LoadOutsideSession,
    SessionReleased,
    TransactionAborted,
    Unavailable,
    UnitEnded,
    WrongSession,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from fastapi_database.core.session import Sessions

logger = logging.getLogger("fastapi_database")

T = TypeVar("T")

_STOP_TIMEOUT = 1.0  # seconds a cancelled statement gets to let go of its connection, which then is closed


def commits(*, status: int, failed: bool, commit_on: Collection[int] = ()) -> bool:
    """Decide whether a unit of work commits: an answer below 400 that no exception preceded, or a status asked for.

    >>> commits(status=201, failed=False), commits(status=404, failed=False), commits(status=200, failed=True)
    (True, False, False)
    >>> commits(status=401, failed=True, commit_on={401})
    True
    """
    return (status < 400 and not failed) or status in commit_on


class Kind(enum.Enum):
    """The two kinds of session."""

    SYNC = "sync"
    ASYNC = "async"


class Intent(enum.Enum):
    """What a unit is for, where the database wants to know before the first statement."""

    WRITE = "write"
    UNKNOWN = "unknown"  # the first statement tells


@dataclass(slots=True)
class Counters:
    """What the units of one ``Database`` did."""

    commits: int = 0
    rollbacks: int = 0


@dataclass(frozen=True, slots=True)
class Services:
    """What the units of one ``Database`` work with."""

    connections: Connections
    admission: Admission
    sessions: Sessions
    counters: Counters
    abandoned: Callable[[Ticket], None]
    """What takes the place of a unit that was never finished."""
    allow_on_loop: Callable[[], bool]
    """Whether sync sessions may be used on an event loop now."""


class Unit(ABC):
    """One unit of work: owns its session and its place, and ends once."""

    kind: ClassVar[Kind]

    # What one that is never used never changes; many are not.
    ended = False
    fatal: FastAPIDatabaseError | None = None
    """An error that must reach the client even if the handler swallowed it."""
    _session: Session | None = None
    _engine: UnitEngine | None = None
    wrote = False
    """Whether the running transaction had a statement that is made to write; what others hide, the database knows."""
    _releases = 0
    """How many blocks of ``db.released()`` are being run."""
    _ticket: Ticket | None = None
    _connected = True
    """False from the moment a connection is asked for until it has begun a transaction."""
    _acknowledged = False
    """True once the database has acknowledged a COMMIT."""
    stored = False
    """Whether it has committed, as far as that can have stored anything; no error can take that back."""
    _cancelled = False
    _abandoned = False
    """True once nobody waits for the answer, and the statement that ran was cancelled."""
    _connection: Connection | None = None
    """What the transaction runs on, while one does."""
    _transaction: UnitTransaction | None = None
    """What the connection of the last transaction knows of it."""

    def __init__(
        self,
        services: Services,
        *,
        owner: Owner,
        intent: Intent,
        ticket: Ticket | None = None,
        deadline: Deadline | None = None,
        on_success: Callable[[], None] = nothing,
    ) -> None:
        self.owner = owner
        self.intent = intent
        self._services = services
        self._ticket = ticket
        self._deadline = deadline
        self._on_success = on_success

    def __del__(self) -> None:
        if self._ticket is not None:  # nobody has left the `with` block, and nobody can any more
            self._services.abandoned(self._ticket)

    @property
    def session(self) -> Session:
        """The session, made when it is first asked for."""
        session = self._session
        if session is None:
            session = self._services.sessions.sync(self)
            if not self.ended:  # one that is made to refuse is nobody's: see end()
                self._session = session
        return session

    @property
    def needs_io(self) -> bool:
        """Whether ending this unit talks to the database or flushes; False for one that was never used."""
        return self._session is not None and not self.ended and self._session.in_transaction()

    @property
    def unsettled(self) -> bool:
        """Whether ending this takes more than :meth:`end`: a COMMIT or ROLLBACK, or an error to be told."""
        return self.needs_io or self.fatal is not None

    @property
    def doomed(self) -> BaseException | None:
        """Why this can not commit any more, as far as is known before COMMIT."""
        if self.fatal is None and self.needs_io and self._transaction is not None and self._transaction.failed:
            return TransactionAborted(ABORTED)
        return self.fatal

    @property
    def used(self) -> bool:
        """Whether this unit has, or may load, anything an answer is made of."""
        if self._session is None:
            return False
        return self.needs_io or self.fatal is not None or len(self._session.identity_map) > 0

    @property
    def begins_late(self) -> bool:
        """Whether the database may not have been told yet that the transaction begins."""
        return self._engine is not None and self._engine.late

    @property
    def asked(self) -> bool:
        """Whether the running transaction has sent, or is about to send, a statement."""
        return self._engine is not None

    @property
    def in_use(self) -> bool:
        """Whether another task is in the middle of a statement, which has to be stopped before the end."""
        return False

    @property
    def may_be_executing(self) -> bool:
        """Whether a statement may be running now; False where it is certain that none is."""
        return True  # the connection may know

    def bind(self, clause: Any) -> Engine:
        """Give the engine for a statement, once this unit may use one. Every statement passes here."""
        self.refuse_if_ended()
        self.check_context()
        if self._deadline is not None:
            self._refuse_if_late(self._deadline)
        engine = self._engine
        if engine is None:
            engine = self._engine = self._begin(clause)
            self._connected = False
        elif not self.wrote:
            self.wrote = _is_made_to_write(clause)
        return engine

    def refuse_if_ended(self) -> None:
        """Raise :class:`UnitEnded` once the unit has ended."""
        if self.ended:
            raise UnitEnded(
                f"the session of {self.owner} was used after its unit of work had ended: the request was answered, or "
                "the `with` block was left. Work that outlives it opens its own unit: `with db.begin() as session:` "
                "(or `async with`), and takes ids with it, not objects"
            )
        self.refuse_if_abandoned()

    def refuse_if_abandoned(self) -> None:
        """Raise :class:`UnitEnded` once the client has gone away."""
        if self._abandoned:
            raise UnitEnded(
                f"the client of {self.owner} went away before it was answered, so nothing more is done for it: its "
                "statement was cancelled and its unit of work is rolled back"
            )

    def finish(self, *, commit: bool) -> None:
        """Commit or roll back, give the connection and then the place back, and die. A second call does nothing.

        Raises what COMMIT raised, or the error that must reach the client (``fatal``); then nothing is stored.
        Runs where the session may block: in a thread, or in a greenlet.
        """
        if self.ended:
            return
        self._note_swallowed_refusal(commit=commit)
        undone = commit and self._abandoned and self.needs_io
        try:
            if commit and self._deadline is not None and self.needs_io:
                self._note_if_late(self._deadline)
            if commit and self.fatal is None and not self._cancelled:
                if self.needs_io:
                    self._commit()
                    self._on_success()
            else:
                self.ended = True  # a thread whose request was cancelled may still be at work: its next statement fails
                self._roll_back()
        except BaseException:
            self._roll_back()
            raise
        finally:
            self.end()
        if commit and self.fatal is not None:
            raise self.fatal
        if undone:
            self.refuse_if_abandoned()  # whoever is there all the same must not read that it was stored

    def refuse_to_commit(self) -> None:
        """Raise what stands in the way of a COMMIT that the application asks for itself."""
        self.refuse_if_abandoned()
        if self._deadline is not None and self.needs_io:
            self._refuse_if_late(self._deadline)

    def cancel(self) -> None:
        """Note that nobody waits for the answer any more: what has not been committed yet is rolled back."""
        self._cancelled = True

    async def interrupt(self) -> None:
        """Cancel the statement that runs, in the database, and refuse the next: nobody waits for the answer.

        The connection stays usable. Called again, it cancels what has slipped through between two statements.
        """
        self._abandoned = True
        self.cancel()
        connection = self._connection
        if connection is not None and self.may_be_executing:
            await self._services.connections.interrupt(connection)

    def connected(self, connection: Connection) -> None:
        """Note that the connection that was asked for has begun its transaction."""
        self._connected = True
        self._connection = connection
        self._transaction = unit_transaction(connection)

    @property
    def lost(self) -> bool:
        """Whether the connection was lost in the last transaction."""
        return self._transaction is not None and self._transaction.lost

    def end(self) -> None:
        """Refuse all further work, give the place back and forget the session. Talks to nothing.

        The session keeps its unit, to refuse; knowing each other, both would wait for the garbage collector.
        """
        self.ended = True
        self._session = None
        if self._ticket is not None:
            self.release_place()

    def release_place(self) -> None:
        """Give the place back; the next statement claims a new one."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._services.admission.release(ticket)

    def is_of(self, services: Services) -> bool:
        """Tell whether this unit works with these services, those of one ``Database``."""
        return self._services is services

    def give_back(self) -> None:
        """Give the place back, and refuse statements until as many calls of :meth:`resume` have come."""
        self._engine = None  # one that was asked for, and not used, must not be used without a place
        self.release_place()
        self._releases += 1

    def resume(self) -> None:
        """Have the next statement take a place, and a connection, again. Waits for nothing and talks to nothing."""
        self._releases -= 1

    def transaction_ended(self) -> None:
        """Note that the connection went back to its pool: the next transaction chooses its engine anew."""
        self._engine = self._connection = None
        self.wrote = False
        if self._transaction is not None and self._transaction.committing:
            logger.error(
                "%s lost its connection, or was cancelled, between COMMIT and its answer: %s", self.owner, UNKNOWN
            )

    def committed(self) -> None:
        """Count a COMMIT."""
        self._acknowledged = True
        if self._transaction is None or not self._transaction.late:  # one that never began has only read
            self.stored = True
        self._services.counters.commits += 1

    def rolled_back(self) -> None:
        """Count a ROLLBACK."""
        self._services.counters.rollbacks += 1

    def _note_swallowed_refusal(self, *, commit: bool) -> None:
        refusals = REFUSALS.get()
        if not self._connected and refusals is not None and self.fatal is None:
            self.fatal = refusals.claim(self.owner) or (refusals.no_connection if commit else None)

    def _commit(self) -> None:
        """Commit. What a hook of the application raises after the COMMIT can not take it back, and is only logged."""
        self._acknowledged = False
        try:
            self.session.commit()
        except Exception:
            if not self._acknowledged:
                raise
            logger.exception("%s is committed, and what its session called after the COMMIT failed", self.owner)
            self.session.close()

    def _roll_back(self) -> None:
        session = self._session
        if session is None:
            return
        try:
            session.rollback()
        except BaseException as error:
            # The connection is beyond ROLLBACK (lost, or in the middle of an answer): closing it rolls back too,
            # so there is nothing to tell the client. A cancellation goes on.
            with suppress(Exception):
                session.invalidate()
            if not isinstance(error, Exception):
                raise

    def _begin(self, clause: Any) -> UnitEngine:
        deadline = self._deadline
        if self._releases:
            self.fatal = SessionReleased(
                f"the session of {self.owner} was used inside `db.released(session)`, which has given its connection "
                "back: move the statement, or the load of the attribute, before or after the block, or open a unit of "
                "its own there: `with db.begin() as session:` (or `async with`)"
            )
            raise self.fatal
        writes = self.intent is Intent.WRITE or _may_write(clause)
        engines = self._services.connections.unit_engines(self._base_engine())
        try:
            if self._ticket is None:
                self._ticket = self._claim(writer=writes)
            elif writes and not self._ticket.writer:
                self._services.admission.upgrade_blocking(self._ticket, deadline=deadline)
        except (Unavailable, DeadlineExceeded) as error:
            self.fatal = error
            refused(error, owner=self.owner)
            raise
        admitted(self.owner)
        self.refuse_if_abandoned()  # while it waited
        self.wrote = writes and _is_made_to_write(clause)
        engine = engines.write if writes else engines.read
        return engine if deadline is None else engine.until(deadline)

    def _refuse_if_late(self, deadline: Deadline) -> None:
        self._note_if_late(deadline)
        if isinstance(self.fatal, DeadlineExceeded):
            raise self.fatal

    def _note_if_late(self, deadline: Deadline) -> None:
        if self.fatal is None and not deadline.left:
            self.fatal = DeadlineExceeded(
                f"{self.owner} had {deadline.timeout:.2f} s for its unit of work, and they are over: nothing more is "
                "sent to the database, and nothing is stored. Make it shorter, or raise timeout= of transaction() or "
                "db.begin()"
            )

    @abstractmethod
    def _base_engine(self) -> Engine: ...

    @abstractmethod
    def _claim(self, *, writer: bool) -> Ticket: ...

    @abstractmethod
    def check_context(self) -> None:
        """Refuse to talk to the database where this kind of session can not."""


class SyncUnit(Unit):
    """A unit whose ``Session`` works in a thread."""

    kind = Kind.SYNC

    def _base_engine(self) -> Engine:
        return self._services.connections.sync_engine()

    def _claim(self, *, writer: bool) -> Ticket:
        return self._services.admission.acquire_blocking(writer=writer, owner=self.owner, deadline=self._deadline)

    def check_context(self) -> None:
        if running_loop() is not None and not self._services.allow_on_loop():
            raise WrongSession(
                f"the sync session of {self.owner} was used on the event loop, where it stops every other request. "
                "Use it in `def`, or in `async def` take the async one: Depends(db.async_session), "
                "`async with db.begin() as session:`"
            )


class AsyncUnit(Unit):
    """A unit whose ``AsyncSession`` works in a task. The place is claimed at the first statement."""

    kind = Kind.ASYNC

    _async_session: AsyncSession | None = None
    _operation: greenlet | None = None
    _task: asyncio.Task[Any] | None = None

    @property
    def async_session(self) -> AsyncSession:
        """The async face of the session, made when it is first asked for."""
        session = self._async_session
        if session is None:
            session = self._async_session = self._services.sessions.asynchronous(self)
        return session

    def _base_engine(self) -> Engine:
        return self._services.connections.async_engine().sync_engine

    def _claim(self, *, writer: bool) -> Ticket:
        admission = self._services.admission
        return admission.acquire_in_greenlet(writer=writer, owner=self.owner, deadline=self._deadline)

    def end(self) -> None:
        super().end()
        self._async_session = self._operation = self._task = None

    def transaction_ended(self) -> None:
        super().transaction_ended()
        self.release_place()  # a handler may go on for long after its own commit(): it holds nothing meanwhile

    @property
    def unsettled(self) -> bool:
        return (self._operation is not None and not self.ended) or super().unsettled

    async def afinish(self, *, commit: bool) -> None:
        """Finish from a task. Shielded from AnyIO's cancellation; a native one closes the connection."""
        if self.ended:
            return
        if not self.unsettled:
            self.end()
            return
        if not self.needs_io and not self.in_use:  # a refusal that is to be told, say: nothing of it waits
            self.finish(commit=commit)
            return
        await finish_shielded(self._afinish(commit=commit))

    async def _afinish(self, *, commit: bool) -> None:
        try:
            await self._stop_the_other()
            await greenlet_spawn(self.finish, commit=commit)
        except asyncio.CancelledError:
            await finish_despite_cancellation(asyncio.ensure_future(greenlet_spawn(self.finish, commit=False)))
            raise

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in which the session may load and flush, shielded from AnyIO's cancellation while it waits."""
        result: T = await finish_shielded(greenlet_spawn(function, *arguments))
        return result

    @property
    def in_use(self) -> bool:
        return self.running_elsewhere() is not None

    @property
    def may_be_executing(self) -> bool:
        return self._operation is not None and not self._operation.dead

    @property
    def left_behind(self) -> bool:
        """Whether this is open though the task that used it last is over, or is the one that asks at its own end.

        An async generator that is suspended in a ``yield``, in the middle of its block, when whoever reads from it is
        cancelled is closed by nobody. The garbage collector would have to find it: AnyIO (seen in 4.16) keeps what a
        cancelled task was at in a cycle, and the pool would take the connection for one that was lost.
        """
        task = self._task
        return not self.ended and task is not None and (task.done() or task is asyncio.current_task())

    async def _stop_the_other(self) -> None:
        """Cancel a statement that another task still runs: nobody is left to hear its answer."""
        other = self.running_elsewhere()
        if other is not None:
            other.cancel()
            await asyncio.wait({other}, timeout=_STOP_TIMEOUT)

    def running_elsewhere(self) -> asyncio.Task[Any] | None:
        """Give the other task that is in the middle of a statement on this session, if there is one."""
        operation, task = self._operation, self._task
        if operation is None or operation.dead or task is None or task.done():
            return None
        return None if task is asyncio.current_task() else task

    def check_context(self) -> None:
        current = current_greenlet()
        if current is None:
            attribute, option = attribute_being_read() or ("something", "selectinload(...)")
            raise LoadOutsideSession(
                f"the async session of {self.owner} had to load {attribute} where nothing can await it: an attribute "
                f"not loaded yet was read. Load it with the query (`.options({option})`), or read it inside "
                "`await session.run_sync(...)`; a route of `fastapi_database.APIRouter` loads what its response needs"
            )
        operation = self._operation
        if operation is current:
            return
        if operation is not None and not operation.dead:
            error = ConcurrentUse(
                f"the async session of {self.owner} was used by two tasks at once (asyncio.gather, a task group or "
                "create_task): a session is one connection, which answers one statement at a time. Await the "
                "statements one after another, or give each task its own `async with db.begin() as session:`"
            )
            self.fatal = error
            raise error
        self._operation = current
        self._task = asyncio.current_task()


def _may_write(clause: Any) -> bool:
    """Tell whether a first statement may write; a flush has no clause."""
    if clause is None:
        return True
    if isinstance(clause, TextClause):
        words = clause.text.split(None, 1)
        return not words or words[0].upper() not in {"SELECT", "PRAGMA", "EXPLAIN", "VALUES"}
    return not isinstance(clause, SelectBase | FunctionElement)


def _is_made_to_write(clause: Any) -> bool:
    """Tell whether a statement is no SELECT; a WITH in words may be either."""
    if isinstance(clause, TextClause) and clause.text.lstrip()[:4].upper() == "WITH":
        return False
    return _may_write(clause)
