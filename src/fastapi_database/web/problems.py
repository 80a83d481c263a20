"""Errors as RFC 9457 problem documents. https://www.rfc-editor.org/rfc/rfc9457"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import MetaData
from sqlalchemy.exc import PendingRollbackError, SQLAlchemyError
from starlette.websockets import WebSocket, WebSocketState

from fastapi_database.errors import CONNECTION_LOST, FastAPIDatabaseError, OutcomeUnknown, problem_for
from fastapi_database.web import internals
from fastapi_database.web.refusals import BODIES, MEDIA_TYPE, document, in_seconds, refused
from fastapi_database.web.units import SCOPE_KEY, RequestUnits

logger = logging.getLogger("fastapi_database")

STORED = (
    "Part of this request is stored: it had committed before it failed. Look at what is there before sending it again, "
    "or that is stored twice."
)

# RFC 6455, 7.4.1 and the IANA registry: 1011 internal error, 1013 try again later.
_CLOSE_INTERNAL_ERROR, _CLOSE_TRY_AGAIN = 1011, 1013


def add_handlers(app: FastAPI) -> None:
    """Register handlers for the two roots, where the application has none of its own.

    Only the roots: a handler of the application for any narrower class is then found before ours,
    whenever it is registered, and one for the root itself replaces ours.
    """
    handler: Any = answer  # Starlette's type has no place for a handler that serves requests and WebSockets
    app.exception_handlers.setdefault(SQLAlchemyError, handler)
    app.exception_handlers.setdefault(FastAPIDatabaseError, handler)


def covers(error: Exception) -> bool:
    """Tell whether :func:`answer` knows this error."""
    return isinstance(error, SQLAlchemyError | FastAPIDatabaseError)


def answer_refusal(request: Request, error: Exception) -> Response | None:
    """Answer what the queue refused as :func:`answer` does, without raising it; None where it must be raised.

    So it must where the application has a handler of its own. Raising costs as much as the rest of the request: every
    frame and exit stack on the way is told of it.
    """
    if internals.exception_handler(request.scope, error) is not answer or _stored(request):
        return None
    response = refused(error)
    if response is not None:
        _log(request, error, response.status_code)
        error.__traceback__ = None  # its frames know the error: as in Starlette, nobody waits for the garbage collector
    return response


async def answer(connection: Request | WebSocket, error: Exception) -> Response | None:
    """Answer an error with its problem document; close a WebSocket with the code that fits."""
    problem = CONNECTION_LOST if _lost(connection, error) else problem_for(error, metadata=_metadata(connection))
    stored = _stored(connection)
    if stored:
        problem = replace(problem, retry_after=None, members={"detail": STORED, **problem.members})
    _log(connection, error, problem.status)
    if isinstance(connection, WebSocket):
        if connection.application_state is not WebSocketState.DISCONNECTED:
            code = _CLOSE_INTERNAL_ERROR if problem.retry_after is None else _CLOSE_TRY_AGAIN
            await connection.close(code=code, reason=problem.title[:120])
        return None
    if not stored and (response := refused(error)) is not None:
        return response
    body = document(problem)
    headers = {} if problem.retry_after is None else {"Retry-After": str(in_seconds(problem.retry_after))}
    return JSONResponse({**body, **problem.members}, problem.status, headers, media_type=MEDIA_TYPE)


def _log(connection: Request | WebSocket, error: Exception, status: int) -> None:
    units: RequestUnits | None = connection.scope.get(SCOPE_KEY)
    if units is not None and units.gone:  # nobody reads it, and a line says so already
        return
    left_out = 0 if units is None or units.stored or type(error) not in BODIES else units.log.left_out(error)
    if left_out is None:
        return
    method = connection.scope.get("method", "WebSocket")
    where = f"{method} {internals.route_path(connection.scope)}"
    if isinstance(error, OutcomeUnknown):
        return  # its unit has said so, with the route
    if status == 500:
        logger.error("%s answered 500", where, exc_info=error)
    elif status > 500:
        before = ", after it had committed" if _stored(connection) else ""
        more = f" (and {left_out} more since the line before this)" if left_out else ""
        logger.warning("%s answered %d%s: %s%s", where, status, before, first_line(error), more)


def _lost(connection: Request | WebSocket, error: Exception) -> bool:
    """Tell whether a session is told that its transaction is over because its connection was lost.

    After a flush that failed SQLAlchemy has one error for whatever the reason was: https://sqlalche.me/e/20/7s2a
    """
    units: RequestUnits | None = connection.scope.get(SCOPE_KEY)
    if units is None or not isinstance(error, PendingRollbackError):
        return False
    return any(unit.lost for unit in units.units.values())


def _stored(connection: Request | WebSocket) -> bool:
    """Tell whether an explicit commit came before: who sends such a request again has it stored twice."""
    units: RequestUnits | None = connection.scope.get(SCOPE_KEY)
    return units is not None and units.stored


def _metadata(connection: Request | WebSocket) -> list[MetaData]:
    units: RequestUnits | None = connection.scope.get(SCOPE_KEY)
    return [] if units is None else [one for resources in units.units for one in resources.settings.metadata]


def first_line(error: Exception) -> str:
    """Give what an error says first; drivers go on for many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]
