"""Giving the connection back around slow other work in the middle of a unit of work."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import anyio.from_thread
import anyio.to_thread

from fastapi_database.core.resources import Resources
from fastapi_database.core.unit import AsyncUnit, SyncUnit, Unit
from fastapi_database.errors import WrongSession

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session


class Released:
    """A block in which a unit holds no connection; made by ``db.released(session)``."""

    def __init__(self, resources: Resources, session: Session | AsyncSession) -> None:
        unit = getattr(session, "unit", None)
        if not isinstance(unit, Unit) or not resources.opened(unit):
            raise WrongSession(
                f"db.released() was given {session!r}, which is no session of this Database: give it the one of "
                "Depends(db.session), Depends(db.async_session) or db.begin()"
            )
        self._unit = unit
        self._threads = resources.threads
        self._aside = ExitStack()
        self._outermost = False

    def __enter__(self) -> None:
        unit = self._unit
        if not isinstance(unit, SyncUnit):
            raise WrongSession(f"the async session of {unit.owner}: write `async with db.released(session):`")
        unit.release_connection()
        if unit.released:  # by an outer block, which goes on
            return
        self._outermost = unit.released = True
        self._aside.callback(setattr, unit, "released", False)
        # A thread that only waits is none of those that compute: others must not wait for it.
        if not self._aside.enter_context(self._threads.aside()):
            self._aside.enter_context(_one_more_thread())

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        # Still set aside: a thread that is counted must not wait for a place that waits for a thread.
        with self._aside:
            if self._outermost and error is None:
                self._unit.take_place()

    async def __aenter__(self) -> None:
        unit = self._unit
        if not isinstance(unit, AsyncUnit):
            raise WrongSession(f"the sync session of {unit.owner}: write `with db.released(session):`")
        unit.refuse_if_ended()
        await unit.async_session.run_sync(lambda _: unit.release_connection())

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Do nothing: the next statement takes a place, and a connection."""


@contextmanager
def _one_more_thread() -> Generator[None]:
    """Let another thread of AnyIO's run, if this is one: FastAPI has 40 of them for every ``def`` there is."""
    try:
        anyio.from_thread.run_sync(_add_threads, 1)
    except RuntimeError:  # a thread of the application's own
        yield
        return
    try:
        yield
    finally:
        anyio.from_thread.run_sync(_add_threads, -1)


def _add_threads(change: int) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens += change
