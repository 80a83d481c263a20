"""The route class: handler, flush, validation, serialisation, commit and release in one go.

For a ``def`` endpoint that is one hop to a thread, where FastAPI alone makes two and a commit would be
a third. For an ``async def`` endpoint it is one greenlet, in which lazy loads of the response work.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, get_args, get_origin

import fastapi
from fastapi import Depends, Request, Response
from fastapi.params import Depends as DependsMarker
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from fastapi_database.core.threads import Threads
from fastapi_database.core.unit import AsyncUnit, Kind, SyncUnit, Unit, commits
from fastapi_database.errors import Unavailable
from fastapi_database.web import internals
from fastapi_database.web.checks import check, session_kind
from fastapi_database.web.preload import preload
from fastapi_database.web.problems import answer_refusal
from fastapi_database.web.units import SCOPE_KEY, RequestUnits

_ANSWER_KEY = "fastapi_database.answer"
_CONNECTION, _RESPONSE, _END = (
    "fastapi_database_connection",
    "fastapi_database_response",
    "fastapi_database_end",
)


class DatabaseRoute(APIRoute):
    """A FastAPI route on which the unit of work and the answer are one step.

    ``db.install(app)`` makes it the route class of the application, :class:`APIRouter` that of a router. An
    endpoint may be anything FastAPI takes; what it answers is byte for byte what FastAPI answers. An endpoint that
    declares a session it can not use is refused here, when it is registered. A subclass may have its own
    ``get_route_handler``; what that answers decides then whether the unit commits.

    >>> router = fastapi.APIRouter(route_class=DatabaseRoute)
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _serve(endpoint), **options)
        check(internals.declared(self))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Build the handler, and keep what it needs to answer; FastAPI calls this once per inclusion."""
        handler = super().get_route_handler()
        # The handler of a subclass may make another answer of ours, one that must not be stored.
        may_change = type(self).get_route_handler is not DatabaseRoute.get_route_handler
        answer = internals.answer_of(self, may_change=may_change)
        first = _sync_session_first(answer)

        async def handle(request: Request) -> Response:
            request.scope[_ANSWER_KEY] = answer
            if first is not None and not answer.overridden:
                try:
                    await first(request)
                except Unavailable as error:
                    refusal = None if answer.may_change else answer_refusal(request, error)
                    if refusal is None:
                        raise
                    return refusal
            return await handler(request)

        return handle


def _sync_session_first(answer: internals.Answer) -> Callable[[Request], Coroutine[Any, Any, Any]] | None:
    """Give the dependency for the sync session where FastAPI would solve it first of all, before anything may fail.

    Then a place is asked for before FastAPI begins, and whoever is refused has cost no more than that.
    """
    first = internals.first_solved(answer.route)
    found = None if first is None else session_kind(first)
    return first if found is not None and found[1] is Kind.SYNC else None


class APIRouter(fastapi.APIRouter):
    """FastAPI's router with :class:`DatabaseRoute` as its route class.

    It also refuses, when it is registered, a WebSocket endpoint that declares the request's session.

    >>> APIRouter(prefix="/users").route_class is DatabaseRoute
    True
    """

    def __init__(self, *, route_class: type[APIRoute] = DatabaseRoute, **options: Any) -> None:
        super().__init__(route_class=route_class, **options)

    def add_api_websocket_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        name: str | None = None,
        *,
        dependencies: Sequence[Any] | None = None,
    ) -> None:
        """Register a WebSocket endpoint, as FastAPI does, after a look at its sessions."""
        super().add_api_websocket_route(path, end_before_body(endpoint), name, dependencies=dependencies)
        check(internals.declared(self.routes[-1]))


def _serve(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    if internals.is_generator(endpoint):
        return end_before_body(endpoint)
    connection, response, signature = _signature(endpoint)
    serve = _serve_async if internals.is_coroutine(endpoint) else _serve_sync

    async def call(**values: Any) -> Any:
        request: HTTPConnection = values[connection]
        solved: Response = values[response]
        for name in (_CONNECTION, _RESPONSE):
            values.pop(name, None)
        return await serve(endpoint, values, _Step(request, solved))

    return _disguise(call, endpoint, signature)


class _Step:
    """What happens between an endpoint and its answer."""

    __slots__ = ("_answer", "_solved", "_units")

    def __init__(self, request: HTTPConnection, solved: Response) -> None:
        self._answer: internals.Answer = request.scope[_ANSWER_KEY]
        self._solved = solved
        self._units: RequestUnits | None = request.scope.get(SCOPE_KEY)

    @property
    def sync_units(self) -> list[Unit]:
        return [unit for unit in self._open() if isinstance(unit, SyncUnit)]

    @property
    def used_units(self) -> list[Unit]:
        return [unit for unit in self._open() if unit.used]

    @property
    def threads(self) -> Threads | None:
        """The threads of the first database whose sync session this request has."""
        if self._units is None:
            return None
        return next(
            (resources.threads for resources, unit in self._units.units.items() if isinstance(unit, SyncUnit)), None
        )

    def call(self, endpoint: Callable[..., Any], values: dict[str, Any]) -> Response:
        """Run a ``def`` endpoint and everything up to the release, in the thread this is called in."""
        units = self.sync_units
        try:
            value = endpoint(**values)
        except BaseException:
            for unit in units:
                # A handler may turn the exception into a status that commits; then the middleware decides.
                if self._finishes and not self._answer.options.commit_on:
                    unit.finish(commit=False)
            raise
        return self.complete(value, units)

    def complete(self, value: Any, units: Sequence[Unit]) -> Response:
        """Flush, serialise, commit and release, in the thread or greenlet this is called in."""
        if not isinstance(value, Response):
            for unit in units:
                if unit.needs_io:
                    unit.session.flush()  # so that generated values are there to serialise
            preload(value, self._answer.route.response_model)
        response = self._answer.response(value, self._solved)
        # A response with a life of its own (a file, a stream) may fail before it starts: then the middleware decides.
        # So it does when a task of the endpoint's still uses the session: only it can wait for the task to stop.
        lasts = type(response).__call__ is not Response.__call__ or any(unit.in_use for unit in units)
        if self._finishes and not lasts:
            for unit in units:
                unit.finish(commit=self._commits(response.status_code))
        return response

    def cancel(self) -> None:
        """Have nothing committed any more: nobody waits for the answer."""
        for unit in self._open():
            unit.cancel()

    @property
    def _finishes(self) -> bool:
        """Whether the unit is finished here: not while the answer may change, nor one by one of several databases."""
        if self._answer.may_change or self._answer.exits_pending:
            return False
        return self._units is not None and len(self._units.units) == 1

    def _commits(self, status: int) -> bool:
        return commits(status=status, failed=False, commit_on=self._answer.options.commit_on)

    def _open(self) -> list[Unit]:
        return [] if self._units is None else [unit for unit in self._units.units.values() if not unit.ended]


async def _serve_sync(endpoint: Callable[..., Any], values: dict[str, Any], step: _Step) -> Any:
    threads = step.threads
    if threads is None:
        return await run_in_threadpool(step.call, endpoint, values)
    return await threads.run(step.call, endpoint, values, on_cancel=step.cancel)


async def _serve_async(endpoint: Callable[..., Any], values: dict[str, Any], step: _Step) -> Any:
    value = await endpoint(**values)
    units = step.used_units
    async_units = [unit for unit in units if isinstance(unit, AsyncUnit)]
    if async_units:
        return await async_units[0].run(step.complete, value, async_units)
    threads = step.threads if units else None
    if threads is not None:  # a `def` dependency used the database: its objects load in a thread
        return await threads.run(step.complete, value, units, on_cancel=step.cancel)
    return step.complete(value, ())


def end_before_body(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Have the unit finished after the dependencies and before the body of a generator or WebSocket endpoint begins.

    FastAPI starts to run an event stream before it sends the head of the answer. A dependency that stands last
    is solved last; by then the dependencies have done their work.
    """
    signature = internals.get_typed_signature(endpoint)
    end = inspect.Parameter(_END, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[None, Depends(end_unit)])

    def call(**values: Any) -> Any:
        values.pop(_END)
        return endpoint(**values)

    return _disguise(call, endpoint, _extend(signature, [end]))


async def end_unit(connection: HTTPConnection) -> None:
    """Commit and release what the dependencies used; the last dependency of an endpoint whose body goes on for long."""
    units: RequestUnits | None = connection.scope.get(SCOPE_KEY)
    if units is not None and units.pending:
        await units.finish(commit=units.commits(200))


def _signature(endpoint: Callable[..., Any]) -> tuple[str, str, inspect.Signature]:
    """Add parameters for the connection and FastAPI's own response, unless the endpoint takes them itself."""
    signature = internals.get_typed_signature(endpoint)
    hidden: list[inspect.Parameter] = []
    names: list[str] = []
    for own, kind in ((_CONNECTION, HTTPConnection), (_RESPONSE, Response)):
        name = next((p.name for p in signature.parameters.values() if _is_given(p, kind)), None)
        if name is None:
            hidden.append(inspect.Parameter(own, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
        names.append(name or own)
    return names[0], names[1], _extend(signature, hidden)


def _is_given(parameter: inspect.Parameter, kind: type) -> bool:
    """Tell whether FastAPI itself gives this parameter, and not a dependency that happens to have its type."""
    annotation = parameter.annotation
    metadata: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        metadata = tuple(rest)
    if any(isinstance(one, DependsMarker) for one in (*metadata, parameter.default)):
        return False
    return inspect.isclass(annotation) and issubclass(annotation, kind)


def _extend(signature: inspect.Signature, hidden: list[inspect.Parameter]) -> inspect.Signature:
    shown = list(signature.parameters.values())
    rest = [p for p in shown if p.kind is inspect.Parameter.VAR_KEYWORD]
    return signature.replace(parameters=[*(p for p in shown if p not in rest), *hidden, *rest])


def _disguise(
    call: Callable[..., Any], endpoint: Callable[..., Any], signature: inspect.Signature
) -> Callable[..., Any]:
    """Make the wrapper look like the endpoint: its name, documentation, module and return annotation."""
    functools.update_wrapper(call, endpoint)
    call.__name__ = getattr(endpoint, "__name__", type(endpoint).__name__)
    returns = inspect.signature(endpoint).return_annotation
    setattr(call, internals.ENDPOINT, endpoint)
    call.__signature__ = signature.replace(return_annotation=returns)  # type: ignore[attr-defined]
    return call
