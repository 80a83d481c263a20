"""The undocumented details of FastAPI and Starlette that web/internals.py touches: one test for each.

A test that fails here after an upgrade says which detail changed; nothing else of the library looks at them.
"""

import ast
import inspect
import re
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, get_typed_signature
from fastapi.exceptions import EndpointContext
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts, serialize_response
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.routing import Mount, Route

from fastapi_database.web import internals

# Names that FastAPI and Starlette document for everybody.
DOCUMENTED = {"FastAPI", "Response", "APIRoute", "APIWebSocketRoute", "Mount", "ASGIApp"}


class Out(BaseModel):
    id: int


def test_every_detail_is_listed_with_its_versions() -> None:
    listed = inspect.getdoc(internals) or ""
    assert re.search(r"Seen in FastAPI [\d.]+ to [\d.]+ with Starlette [\d.]+ to [\d.]+", listed)
    tree = ast.parse(Path(internals.__file__).read_text())
    taken = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in {"fastapi", "starlette"}
        for alias in node.names
    }
    assert [name for name in sorted(taken - DOCUMENTED) if not re.search(rf"\b{name}\b", listed)] == []
    keys = re.findall(r'(?:scope|get)\(?\[?"([\w.]+)"', Path(internals.__file__).read_text())
    assert [key for key in sorted(set(keys)) if key not in listed and key not in ASGI and key != "__name__"] == []


ASGI = {"path", "root_path", "route"}  # of the ASGI specification; `route` is what Starlette documents for routers


# scope["fastapi_inner_astack"]


@pytest.mark.parametrize("place", ["endpoint", "dependency", "async endpoint"])
def test_the_inner_exit_stack_sees_an_exception_before_its_handler_does(place: str) -> None:
    seen: list[str] = []

    def watch(request: Request) -> None:
        assert isinstance(request.scope["fastapi_inner_astack"], AsyncExitStack)
        internals.on_error(request.scope, lambda error: seen.append(f"stack {error!r}"))
        if place == "dependency":
            raise LookupError("x")

    def fail() -> None:
        raise LookupError("x")

    async def fail_async() -> None:
        raise LookupError("x")

    app = FastAPI()
    app.add_exception_handler(LookupError, lambda *_: seen.append("handler") or Response(status_code=418))
    endpoint = fail_async if place == "async endpoint" else fail
    app.add_api_route("/", endpoint, dependencies=[Depends(watch)])
    assert TestClient(app).get("/").status_code == 418
    assert seen == ["stack LookupError('x')", "handler"]


def test_the_inner_exit_stack_ends_quietly_after_an_answer_of_any_status() -> None:
    seen: list[BaseException] = []

    async def watch(request: Request) -> None:
        internals.on_error(request.scope, seen.append)

    app = FastAPI()
    app.add_api_route("/", lambda: Response(status_code=500), dependencies=[Depends(watch)])
    assert TestClient(app).get("/").status_code == 500
    assert seen == []


# scope["starlette.exception_handlers"]


class Base(Exception):
    pass


class Narrow(Base):
    pass


@pytest.mark.parametrize("error", [Narrow(), Base(), HTTPException(404), HTTPException(410), ValueError()])
def test_the_handler_found_in_the_scope_is_the_one_starlette_calls(error: Exception) -> None:
    called: list[Any] = []
    found: list[Any] = []

    def handler(name: str) -> Callable[..., Response]:
        def handle(_request: Request, _error: Exception) -> Response:
            called.append(handle)
            return JSONResponse(name)

        return handle

    app = FastAPI(exception_handlers={Base: handler("base"), 404: handler("404"), HTTPException: handler("http")})

    def endpoint(request: Request) -> None:
        found.append(internals.exception_handler(request.scope, error))
        raise error

    app.add_api_route("/", endpoint, response_model=None)
    client = TestClient(app, raise_server_exceptions=False)
    client.get("/")
    assert found == (called or [None])


# fastapi.routing.serialize_response


def test_serialize_response_awaits_nothing_for_a_coroutine_and_knows_our_arguments() -> None:
    app = FastAPI()
    answers: list[internals.Answer] = []

    class Spy(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answers.append(internals.answer_of(self))
            return super().get_route_handler()

    router = APIRouter(route_class=Spy)
    router.add_api_route("/", lambda: None, response_model=Out, status_code=201)
    app.include_router(router)
    TestClient(app).get("/openapi.json")
    solved = Response()
    solved.headers["x-cafe"] = "open"
    del solved.headers["content-length"]
    solved.status_code = None  # type: ignore[assignment]
    response = answers[-1].response({"id": "7", "more": 1}, solved)
    assert (response.status_code, response.body, response.headers["x-cafe"]) == (201, b'{"id":7}', "open")
    assert inspect.iscoroutinefunction(serialize_response)
    assert inspect.signature(serialize_response).parameters.keys() >= {
        "field",
        "response_content",
        "include",
        "exclude",
        "by_alias",
        "exclude_unset",
        "exclude_defaults",
        "exclude_none",
        "is_coroutine",
        "endpoint_ctx",
        "dump_json",
    }


def test_a_serialisation_that_awaits_is_noticed() -> None:
    async def awaits() -> None:
        import asyncio

        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="this version is not supported"):
        internals._run(awaits())


# fastapi.routing._effective_route_context_var


def test_while_a_router_is_included_the_route_is_known_as_it_appears_there() -> None:
    built: list[tuple[str, Any, int]] = []

    class Spy(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            route = internals.answer_of(self).route
            built.append((route.path_format, route.response_class, len(route.dependant.dependencies)))
            return super().get_route_handler()

    def nothing() -> None: ...

    inner, outer, app = APIRouter(route_class=Spy, prefix="/inner"), APIRouter(prefix="/outer"), FastAPI()
    inner.add_api_route("/{id}", lambda: "x", response_model=None)
    outer.include_router(inner, dependencies=[Depends(nothing)])
    app.include_router(outer, default_response_class=HTMLResponse)
    app.include_router(inner, prefix="/again")
    client = TestClient(app)
    assert client.get("/outer/inner/7").headers["content-type"].startswith("text/html")
    assert client.get("/again/inner/7").headers["content-type"] == "application/json"
    assert ("/outer/inner/{id}", HTMLResponse, 1) in built
    assert any(path == "/again/inner/{id}" and count == 0 for path, _, count in built)


# fastapi.dependencies.utils.get_typed_signature


def test_the_typed_signature_resolves_annotations_that_are_strings() -> None:
    def endpoint(out: "Out", *, request: "Request") -> "Out": ...  # type: ignore[empty-body]

    parameters = get_typed_signature(endpoint).parameters
    assert [(p.name, p.annotation) for p in parameters.values()] == [("out", Out), ("request", Request)]


# fastapi.dependencies.models.Dependant, get_dependant


def test_a_dependant_is_a_tree_of_calls_with_names_and_scopes() -> None:
    def leaf() -> None: ...

    def generator() -> Any:
        yield

    def middle(leaf: Annotated[None, Depends(leaf)]) -> None: ...

    def endpoint(
        value: Annotated[None, Depends(middle)], other: Annotated[None, Depends(generator, scope="function")]
    ) -> None: ...

    tree = get_dependant(path="/x/{id}", call=endpoint)
    assert isinstance(tree, Dependant)
    assert (tree.call, tree.path) == (endpoint, "/x/{id}")
    assert [(child.name, child.call, child.scope) for child in tree.dependencies] == [
        ("value", middle, None),
        ("other", generator, "function"),
    ]
    assert tree.dependencies[0].dependencies[0].call is leaf
    assert internals._has_function_exits(tree)
    assert not internals._has_function_exits(tree.dependencies[0])


def test_a_dependency_of_the_router_has_no_name() -> None:
    def guard() -> None: ...

    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(guard)])
    (route,) = (one for one in app.routes if isinstance(one, APIRoute))
    assert [(child.name, child.call) for child in route.dependant.dependencies] == [(None, guard)]


def test_a_dependency_can_be_added_to_a_route_that_is_registered_and_runs_last() -> None:
    seen: list[str] = []
    app = FastAPI()
    app.add_api_route("/", lambda: seen.append("endpoint"), dependencies=[Depends(lambda: seen.append("first"))])
    (route,) = (one for one in app.routes if isinstance(one, APIRoute))

    async def added(request: Request) -> None:
        seen.append(f"added {request.method}")

    for _ in range(2):  # a second time adds nothing
        internals.add_last_dependency(route.dependant, added)
    TestClient(app).get("/")
    assert seen == ["first", "added GET", "endpoint"]


def test_overrides_are_found_through_the_route() -> None:
    answers: list[internals.Answer] = []

    class Spy(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answers.append(internals.answer_of(self))
            return super().get_route_handler()

    app = FastAPI()
    app.router.route_class = Spy
    app.add_api_route("/", lambda: None)
    router = APIRouter(route_class=Spy)
    router.add_api_route("/included", lambda: None)
    app.include_router(router)
    TestClient(app).get("/included")
    assert not answers[0].exits_pending
    app.dependency_overrides[test_overrides_are_found_through_the_route] = lambda: None
    assert answers[0].exits_pending
    assert answers[-1].exits_pending


# fastapi.routing.iter_route_contexts


def test_the_routes_of_an_application_are_those_of_included_routers_and_mounts_too() -> None:
    def guard() -> None: ...

    async def socket(websocket: fastapi.WebSocket) -> None: ...

    inner, outer, app, mounted = APIRouter(), APIRouter(prefix="/outer"), FastAPI(openapi_url=None), FastAPI()
    inner.add_api_route("/{id}", lambda: None, methods=["POST", "PUT"])
    inner.add_api_websocket_route("/socket", socket)
    outer.include_router(inner, prefix="/inner", dependencies=[Depends(guard)])
    app.include_router(outer)
    app.mount("/mounted", mounted)
    app.mount("/static", Mount("/x", routes=[Route("/", lambda _: Response())]))
    mounted.add_api_route("/deep", lambda: None)
    found = {one.label: one for one in internals.declared_routes(app)}
    assert {"POST/PUT /outer/inner/{id}", "WebSocket /outer/inner/socket", "GET /deep"} <= set(found)
    assert [child.call for child in found["POST/PUT /outer/inner/{id}"].dependant.dependencies] == [guard]
    assert found["WebSocket /outer/inner/socket"].websocket
    assert list(internals.mounted_applications(app)) == [mounted]
    contexts = list(iter_route_contexts(app.routes))
    assert {type(one.original_route) for one in contexts} >= {APIRoute, APIWebSocketRoute, Mount}


# scope["fastapi"]["effective_route_context"], scope["route"]


def test_a_request_knows_the_template_of_its_route() -> None:
    seen: list[str] = []

    def endpoint(request: Request) -> None:
        seen.append(internals.route_path(request.scope))

    inner, outer, app, mounted = APIRouter(), APIRouter(prefix="/outer"), FastAPI(), FastAPI()
    inner.add_api_route("/{id}", endpoint)
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer)
    app.add_api_route("/own/{id}", endpoint)
    mounted.add_api_route("/deep/{id}", endpoint)
    app.mount("/mounted", mounted)
    client = TestClient(app)
    for path in ("/outer/inner/s3cr3t", "/own/s3cr3t", "/mounted/deep/s3cr3t"):
        assert client.get(path).status_code == 200
    assert seen == ["/outer/inner/{id}", "/own/{id}", "/mounted/deep/{id}"]


# fastapi.telemetry._api._operation, fastapi.exceptions.EndpointContext, FastAPI.middleware_stack


def test_the_operation_of_telemetry_is_a_context_manager() -> None:
    with internals._operation(name="serialization", function=test_the_operation_of_telemetry_is_a_context_manager):
        pass


def test_the_context_of_an_endpoint_is_what_a_validation_error_shows() -> None:
    assert EndpointContext.__annotations__.keys() >= {"function", "file", "line", "path"}


def test_a_body_is_allowed_by_status() -> None:
    allowed = internals.is_body_allowed_for_status_code
    assert (allowed(200), allowed(404), allowed(204), allowed(304)) == (True, True, False, False)


def test_an_application_has_started_with_its_first_request() -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: None)
    assert not internals.has_started(app)
    TestClient(app).get("/")
    assert internals.has_started(app)


# run_endpoint_function: what an endpoint returns as a finished response is passed through as it is.


def test_a_finished_response_is_passed_through() -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: Response(b'{"id": "7"}', 299), response_model=Out, status_code=201)
    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.content) == (299, b'{"id": "7"}')


# The functions by which web/database.py recognises that a request is being handled.


@pytest.mark.parametrize("kind", ["def", "async def", "dependency"])
def test_an_endpoint_is_called_by_the_functions_we_look_for(kind: str) -> None:
    from fastapi_database import Database
    from fastapi_database.errors import BuiltInsideRequest

    caught: list[BaseException] = []

    def build() -> None:
        try:
            Database("sqlite://")
        except BuiltInsideRequest as error:
            caught.append(error)

    async def build_async() -> None:
        build()

    app = FastAPI()
    if kind == "dependency":
        app.add_api_route("/", lambda: None, dependencies=[Depends(build_async)])
    else:
        app.add_api_route("/", build if kind == "def" else build_async)
    TestClient(app).get("/")
    assert len(caught) == 1
