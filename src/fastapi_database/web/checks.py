"""What can be known to be wrong before the first request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi_database.core.unit import Kind
from fastapi_database.errors import MixedSessions, SessionInStream, WrongSession
from fastapi_database.web.internals import Declared, Dependant, is_coroutine, location


def check(route: Declared) -> None:
    """Refuse a route whose sessions can not work, naming it and the way out.

    Raises :class:`SessionInStream`, :class:`WrongSession` or :class:`MixedSessions`.
    """
    own = list(_own_sessions(route.dependant))
    where = f"{route.label} ({location(route.endpoint)})"
    for _, kind in own:
        if route.streams:
            raise SessionInStream(_in_stream(where, kind, websocket=route.websocket))
        if kind is Kind.ASYNC and not is_coroutine(route.endpoint):
            raise WrongSession(
                f"{where} is `def` and takes the async session, whose methods it can not await. Make it `async def` or "
                "take Depends(db.session)"
            )
        if kind is Kind.SYNC and is_coroutine(route.endpoint):
            raise WrongSession(
                f"{where} is `async def` and takes the sync session, which would stop every other request while the "
                "database works. Make it `def`, or take Depends(db.async_session)"
            )
    _refuse_mixed(where, route.dependant)


def session_kind(call: Any) -> tuple[object, Kind] | None:
    """Tell which session a dependency gives, if it is one of ours."""
    function = getattr(call, "__func__", None)
    kind = getattr(function, "gives_session", None)
    return (call.__self__, kind) if isinstance(kind, Kind) else None


def _own_sessions(dependant: Dependant) -> Iterator[tuple[object, Kind]]:
    for child in dependant.dependencies:
        found = session_kind(child.call)
        if found is not None and child.name is not None:
            yield found


def _all_sessions(dependant: Dependant, path: str = "") -> Iterator[tuple[object, Kind, str]]:
    for child in dependant.dependencies:
        found = session_kind(child.call)
        if found is not None:
            yield (*found, path or "the endpoint")
        else:
            yield from _all_sessions(child, location(child.call))


def _refuse_mixed(where: str, dependant: Dependant) -> None:
    seen: dict[object, tuple[Kind, str]] = {}
    for database, kind, by in _all_sessions(dependant):
        first, first_by = seen.setdefault(database, (kind, by))
        if first is not kind:
            raise MixedSessions(
                f"{where} takes both kinds of session of one Database: {first.value} by {first_by}, {kind.value} by "
                f"{by}. "
                "They are two transactions, and a request that holds one connection while it waits for another can "
                "deadlock. Use one kind in the endpoint and in all its dependencies: an async endpoint needs "
                "async dependencies where they touch the database"
            )


def _in_stream(where: str, kind: Kind, *, websocket: bool) -> str:
    what = "a WebSocket endpoint" if websocket else "a generator endpoint"
    lines = "async with db.begin() as session:" if kind is Kind.ASYNC or websocket else "with db.begin() as session:"
    return (
        f"{where} is {what} and declares the request's session, which would hold a connection for as long as the "
        f"client listens. The request's unit ends before the body begins; inside it write `{lines}` around each piece "
        "of database work. Dependencies (a current user, say) may keep using the session"
    )
