"""Everything this library touches that FastAPI and Starlette do not document, in one place.

Seen in FastAPI 0.163.0 to 0.165.0 with Starlette 1.7 to 1.10. Each detail has a test in
``tests/web/test_internals.py`` that fails when a version changes it.

* ``scope["fastapi_inner_astack"]``: the exit stack of request-scoped dependencies. It sees the exception
  that leaves an endpoint *before* an exception handler turns it into a response.
* ``scope["starlette.exception_handlers"]``: the application's handlers, by class and by status.
* ``fastapi.routing.serialize_response``: validation and serialisation of what an endpoint returns. It
  awaits nothing when told that the endpoint is a coroutine, so it can be driven from any thread.
* ``fastapi.routing._effective_route_context_var``: while a router is included, the route as it appears
  there (default response class, prefix, dependencies).
* ``fastapi.dependencies.utils.get_typed_signature``: an endpoint's parameters with annotations resolved.
* ``fastapi.dependencies.models.Dependant`` and ``get_dependant``: the tree of dependencies of a route, to which
  one more is added on plain routers whose endpoints stream.
* ``fastapi.routing.iter_route_contexts``: the routes of an application, those of included routers too;
  ``scope["fastapi"]["effective_route_context"]``: the one a request was matched with.
* ``fastapi.exceptions.EndpointContext``, ``fastapi.utils.is_body_allowed_for_status_code`` and
  ``fastapi.telemetry._api._operation``: parts of how FastAPI builds a response, so that ours is equal.
* ``fastapi.routing.run_endpoint_function``, ``fastapi.telemetry._api._run_sync_endpoint`` and
  ``fastapi.dependencies.utils.solve_dependencies``: the functions below which a request is handled.
* ``FastAPI.middleware_stack``: None until the application has started.
* ``APIRoute``'s attributes: it keeps each argument it was made with under the argument's name, so that a route can be
  made again in another class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from fastapi import FastAPI, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, get_typed_signature
from fastapi.exceptions import EndpointContext
from fastapi.routing import (
    APIRoute,
    APIWebSocketRoute,
    _effective_route_context_var,  # pyright: ignore[reportPrivateUsage]
    iter_route_contexts,
    serialize_response,
)
from fastapi.telemetry._api import _operation  # pyright: ignore[reportPrivateUsage]
from fastapi.utils import is_body_allowed_for_status_code
from starlette.routing import Mount
from starlette.types import ASGIApp

from fastapi_database.core.transaction import TransactionOptions, transaction_options

__all__ = ["Dependant", "get_typed_signature"]

Scope = MutableMapping[str, Any]
ENDPOINT = "fastapi_database_endpoint"
"""The attribute under which a wrapper keeps the endpoint as it was declared."""

OnError = Callable[[BaseException], None]


def on_error(scope: Scope, callback: OnError) -> bool:
    """Have ``callback`` called with the exception that leaves the endpoint or a dependency, if one does.

    False outside of both, in a middleware or a route of Starlette's.
    """
    stack = scope.get("fastapi_inner_astack")
    if not isinstance(stack, AsyncExitStack):
        return False

    stack.push(_Leaving(callback))
    return True


class _Leaving:
    """Sees the exception that leaves an exit stack, and lets it go on."""

    __slots__ = ("_callback",)

    def __init__(self, callback: OnError) -> None:
        self._callback = callback

    def __enter__(self) -> None:
        """Do nothing: the stack is entered already."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._callback(error)


def exception_handler(scope: Scope, error: Exception) -> Callable[..., Any] | None:
    """Find the application's handler for an exception, as Starlette would."""
    by_class, by_status = scope.get("starlette.exception_handlers", ({}, {}))
    status = getattr(error, "status_code", None)
    if status in by_status:
        return by_status[status]  # type: ignore[no-any-return]
    for cls in type(error).__mro__:
        if cls in by_class:
            return by_class[cls]  # type: ignore[no-any-return]
    return None


def route_path(scope: Scope) -> str:
    """Give the route's template (``/users/{id}``), which holds no values a client sent."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    route = scope.get("route")
    path = getattr(context, "path", None) or getattr(route, "path", None) or scope.get("path", "")
    return f"{scope.get('root_path', '')}{path}"


def name_of(scope: Scope) -> Scope:
    """Give the part of a scope that :func:`route_path` reads, and the method."""
    return {key: scope[key] for key in ("method", "root_path", "path", "route", "fastapi") if key in scope}


@dataclass(frozen=True, slots=True)
class Answer:
    """How one route, as it appears where it is included, turns a returned value into a response."""

    route: Any
    endpoint_context: EndpointContext
    function_exits: bool
    """Whether a function-scoped dependency has an exit to run between the endpoint and the response."""
    may_change: bool
    """Whether a route class of the application has the last word on the response."""
    overrides: Any

    @property
    def options(self) -> TransactionOptions:
        """What the endpoint asked for; read at each request, for ``@transaction`` may stand above the route too."""
        return options_of(self.route.endpoint)

    @property
    def exits_pending(self) -> bool:
        """Whether such an exit may be pending now; overrides can bring one along."""
        return self.function_exits or self.overridden

    @property
    def overridden(self) -> bool:
        """Whether a test has put other dependencies in the place of some."""
        return bool(getattr(self.overrides, "dependency_overrides", None))

    def response(self, value: Any, solved: Response) -> Response:
        """Validate and serialise what the endpoint returned, exactly as FastAPI does it."""
        if isinstance(value, Response):
            return value
        response = self._serialised(value, solved.status_code or self.route.status_code)
        if not is_body_allowed_for_status_code(response.status_code):
            response.body = b""
        response.headers.raw.extend(solved.headers.raw)
        return response

    def _serialised(self, value: Any, status: int | None) -> Response:
        response_class: Any = self.route.response_class
        is_default = not inspect.isclass(response_class)
        dump_json = self.route.response_field is not None and is_default
        with _operation(name="serialization", function=self.route.dependant.call):
            content = self._content(value, dump_json=dump_json)
        arguments: dict[str, Any] = {} if status is None else {"status_code": status}
        if dump_json:
            return Response(content=content, media_type="application/json", **arguments)
        actual: Any = response_class.value if is_default else response_class
        response: Response = actual(content, **arguments)
        return response

    def _content(self, value: Any, *, dump_json: bool) -> Any:
        route = self.route
        return _run(
            serialize_response(
                field=route.response_field,
                response_content=value,
                include=route.response_model_include,
                exclude=route.response_model_exclude,
                by_alias=route.response_model_by_alias,
                exclude_unset=route.response_model_exclude_unset,
                exclude_defaults=route.response_model_exclude_defaults,
                exclude_none=route.response_model_exclude_none,
                is_coroutine=True,
                endpoint_ctx=self.endpoint_context,
                dump_json=dump_json,
            )
        )


def answer_of(route: APIRoute, *, may_change: bool = False) -> Answer:
    """Describe a route while FastAPI builds its handler, once per inclusion."""
    context = _effective_route_context_var.get()
    effective: Any = context if context is not None and context.original_route is route else route
    endpoint = inspect.unwrap(route.endpoint)
    context_of_endpoint = EndpointContext(function=getattr(endpoint, "__name__", type(endpoint).__name__))
    try:
        context_of_endpoint["file"] = inspect.getsourcefile(endpoint) or ""
        context_of_endpoint["line"] = inspect.getsourcelines(endpoint)[1]
    except (OSError, TypeError):
        pass
    context_of_endpoint["path"] = f"{'/'.join(sorted(effective.methods))} {effective.path_format}"
    return Answer(
        route=effective,
        endpoint_context=context_of_endpoint,
        function_exits=_has_function_exits(effective.dependant),
        may_change=may_change,
        overrides=effective.dependency_overrides_provider,
    )


def options_of(endpoint: Any) -> TransactionOptions:
    """Give what an endpoint asked for of its unit of work, where a route class has wrapped it too."""
    return transaction_options(getattr(endpoint, ENDPOINT, endpoint))


def location(endpoint: Any) -> str:
    """Say where an endpoint stands: its name, its file and its first line; empty where there is none yet."""
    if endpoint is None:
        return ""
    function = inspect.unwrap(endpoint)
    name = getattr(function, "__qualname__", type(function).__name__)
    code = getattr(function, "__code__", None)
    return f"{name}, {code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code else name


def _has_function_exits(dependant: Dependant) -> bool:
    return any(
        (child.scope == "function" and is_generator(child.call)) or _has_function_exits(child)
        for child in dependant.dependencies
    )


def first_solved(route: Any) -> Callable[..., Any] | None:
    """Give the dependency that FastAPI solves first of all for a request without a body, or None.

    It goes down before it goes on: the first dependency of the first dependency, and so forth. Before that it reads and
    parses a body, where the route has one, which may fail.
    """
    dependant: Dependant = route.dependant
    if route.body_field is not None or not dependant.dependencies:
        return None
    while dependant.dependencies:
        dependant = dependant.dependencies[0]
    return None if dependant.concurrency is not None else dependant.call


_CALLERS = {
    ("fastapi.routing", "run_endpoint_function"),
    ("fastapi.telemetry._api", "_run_sync_endpoint"),
    ("fastapi.dependencies.utils", "solve_dependencies"),
}


def inside_fastapi_call() -> bool:
    """Tell whether FastAPI is calling an endpoint or a dependency below this function, in this thread."""
    frame = inspect.currentframe()
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _CALLERS:
            return True
        frame = frame.f_back
    return False


def is_generator(call: Any) -> bool:
    """Tell whether a callable is a generator function, sync or async, behind partials and wrappers."""
    return any(inspect.isgeneratorfunction(c) or inspect.isasyncgenfunction(c) for c in _faces(call))


def is_coroutine(call: Any) -> bool:
    """Tell whether a callable is ``async def``, behind partials and wrappers."""
    return any(inspect.iscoroutinefunction(c) for c in _faces(call))


def _faces(call: Any) -> Iterator[Any]:
    """Give the functions FastAPI looks at: the callable itself, then what it wraps, and their ``__call__``."""
    while isinstance(call, functools.partial):
        call = call.func
    for face in (call, inspect.unwrap(call)):
        yield face
        if not inspect.isroutine(face) and not inspect.isclass(face):
            yield getattr(face, "__call__", None)  # noqa: B004


def _run(coroutine: Any) -> Any:
    """Drive a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    coroutine.close()
    raise RuntimeError("FastAPI's serialize_response awaited something: this version is not supported")


def add_last_dependency(dependant: Dependant, call: Callable[..., Any]) -> None:
    """Have ``call`` run after all dependencies of a route that is registered already, and before its endpoint."""
    if all(child.call is not call for child in dependant.dependencies):
        dependant.dependencies.append(get_dependant(path=dependant.path or "", call=call))


@dataclass(frozen=True, slots=True)
class Declared:
    """One route as it is declared and where it is included."""

    label: str
    endpoint: Any
    dependant: Dependant
    websocket: bool

    @property
    def streams(self) -> bool:
        """Whether the endpoint's body outlives the head of its answer."""
        return self.websocket or is_generator(self.endpoint)


def declared_routes(app: FastAPI) -> Iterator[Declared]:
    """Walk over all routes that have dependencies: included routers and mounted applications too."""
    for context in iter_route_contexts(app.routes):
        route: Any = context.original_route
        if isinstance(route, Mount):
            if isinstance(route.app, FastAPI):
                yield from declared_routes(route.app)
        elif isinstance(route, APIRoute | APIWebSocketRoute):
            effective: Any = context
            yield _declared(route, effective.path, effective.dependant)


def mounted_applications(app: FastAPI) -> Iterator[FastAPI]:
    """Give the FastAPI applications that are mounted below this one, at any depth."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        inner: ASGIApp | None = route.app if isinstance(route, Mount) else None
        if isinstance(inner, FastAPI):
            yield inner
            yield from mounted_applications(inner)


def declared(route: Any) -> Declared:
    """Describe a route at the moment it is registered."""
    return _declared(route, route.path, route.dependant)


def _declared(route: Any, path: str, dependant: Dependant) -> Declared:
    websocket = isinstance(route, APIWebSocketRoute)
    methods = "WebSocket" if websocket else "/".join(sorted(route.methods))
    endpoint = getattr(route.endpoint, ENDPOINT, route.endpoint)
    return Declared(f"{methods} {path}", endpoint, dependant, websocket)


def rebuild_routes(app: FastAPI, kind: type[APIRoute]) -> None:
    """Make the application's own routes that are there already again, in another class, each in its place.

    Those that stream are left: a class makes no difference to them that :func:`add_last_dependency` does not make.
    """
    names = set(inspect.signature(APIRoute).parameters) - {"path", "endpoint"}
    for place, route in enumerate(app.router.routes):
        if type(route) is APIRoute and not is_generator(route.endpoint):
            arguments = {name: getattr(route, name) for name in names}
            app.router.routes[place] = kind(route.path, route.endpoint, **arguments)


def has_started(app: FastAPI) -> bool:
    """Tell whether an application built its middleware, after which nothing can be added."""
    return app.middleware_stack is not None
