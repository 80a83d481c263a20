"""An application with every variant on one class of route, and with routers and applications in each other."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import fastapi
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.routing import APIRoute

from apps import a_variants_callables, a_variants_parameters, a_variants_responses, a_variants_values
from apps.a_variants import VARIANTS, Ask, Inner, Out, Plain, as_async
from apps.a_variants_parameters import REQUEST_SCOPED
from apps.a_variants_values import Indented

REGISTERED = (a_variants_callables, a_variants_parameters, a_variants_responses, a_variants_values)
"""Imported for the variants they note."""


@dataclass
class Application:
    """An application with all variants, and what to ask of it."""

    app: FastAPI
    asks: list[tuple[str, str, Ask]] = field(default_factory=list)
    """Name, path and request."""


def build(
    route_class: type[APIRoute], *, as_coroutines: bool, dependencies: Sequence[Any], install: Callable[[FastAPI], Any]
) -> Application:
    """Build an application with one class of route; `as_coroutines` registers the `async def` forms."""
    app = FastAPI(dependencies=dependencies)
    install(app)
    app.router.route_class = route_class
    made = Application(app)

    @app.exception_handler(LookupError)
    async def handled(_request: Request, error: LookupError) -> Response:
        return PlainTextResponse(f"handled {error}", 418)

    router = fastapi.APIRouter(route_class=route_class)
    for variant in VARIANTS:
        endpoint = as_async(variant.endpoint) if as_coroutines and variant.twin else variant.endpoint
        router.add_api_route(f"/{variant.name}{variant.path}", endpoint, **variant.options)
        for ask in variant.asks:
            # A path with parameters is asked for by its values.
            path = f"/{variant.name}" + ("" if "{" in variant.path else variant.path) + ask.target
            made.asks.append(
                (variant.name, path, dataclasses.replace(ask, method=ask.method or variant.options["methods"][0]))
            )
    app.include_router(router)
    _add_structures(made, route_class, dependencies)
    return made


def _add_structures(made: Application, route_class: type[APIRoute], dependencies: Sequence[Any]) -> None:
    """Routers in routers, one router in several places, mounted applications, routes of the application itself."""
    app = made.app

    def ask(name: str, *paths: str) -> None:
        made.asks.extend((name, path, Ask(method="GET")) for path in paths)

    def router(**options: Any) -> fastapi.APIRouter:
        one = fastapi.APIRouter(route_class=route_class, **options)

        @one.get("/value", response_model=None)
        def value(request: Request) -> Any:
            return f"at {request.url.path}"

        @one.get("/model", status_code=201)
        def model(response: Response) -> Out:
            response.headers["x-a"] = "1"
            return Plain()

        @one.get("/text", response_class=PlainTextResponse)
        def text() -> Any:
            return "text"

        return one

    shared = router(tags=["shared"])
    app.include_router(shared, prefix="/once")
    app.include_router(shared, prefix="/twice", default_response_class=HTMLResponse, responses={418: {"model": Inner}})
    app.include_router(shared, prefix="/thrice", default_response_class=Indented, dependencies=[REQUEST_SCOPED])
    ask(
        "one router in three places",
        *(f"/{place}/{one}" for place in ("once", "twice", "thrice") for one in ("value", "text")),
    )
    ask("one router in three places", "/once/model", "/thrice/model")

    app.include_router(router(default_response_class=PlainTextResponse), prefix="/default-class")
    ask("default response class of a router", "/default-class/value", "/default-class/text")

    outer = fastapi.APIRouter(prefix="/outer", route_class=route_class, default_response_class=Indented)
    outer.include_router(router(prefix="/inner"))
    outer.include_router(router(), prefix="/other/{number}", default_response_class=PlainTextResponse)
    app.include_router(outer, prefix="/outermost")
    ask(
        "routers in routers",
        "/outermost/outer/inner/value",
        "/outermost/outer/inner/model",
        "/outermost/outer/other/5/value",
    )

    inner_app = FastAPI(dependencies=dependencies, default_response_class=HTMLResponse, title="inner")
    inner_app.router.route_class = route_class
    inner_app.include_router(router(), prefix="/r")

    @inner_app.get("/path/{name}")
    def of_inner(name: str, request: Request) -> Any:
        return f"{name} {request.scope['root_path']}"

    @inner_app.get("/fails")
    def fails_in_inner() -> Any:
        raise HTTPException(404, "inner")

    app.mount("/mounted", inner_app)
    ask(
        "mounted application",
        "/mounted/r/value",
        "/mounted/r/text",
        "/mounted/path/x",
        "/mounted/fails",
        "/mounted/none",
    )
    ask("mounted application", "/mounted/openapi.json")

    @app.get("/of-the-application", tags=["x"])
    def of_the_application(q: int = 1) -> Inner:
        """Written on the application itself."""
        return Inner(a=q)

    @app.api_route("/any-method", methods=["GET", "DELETE"], response_class=Indented, include_in_schema=False)
    def any_method(request: Request) -> Any:
        return request.method

    ask(
        "route of the application",
        "/of-the-application?q=3",
        "/of-the-application/",
        "/any-method",
        "/nowhere",
        "/openapi.json",
    )
