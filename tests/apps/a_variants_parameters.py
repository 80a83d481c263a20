"""Variants by what they ask for: parameters, bodies, forms, dependencies, exits, and by how they fail."""

import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal

from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    File,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
)
from fastapi.exceptions import RequestValidationError
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from pydantic import BaseModel, ConfigDict
from starlette.requests import HTTPConnection

from apps.a_variants import RAN, Ask, Inner, Out, add
from apps.a_variants_values import Colour

VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("VISITOR", default="nobody")


# Parameters


@add("path", Ask("/7/a/b%20c"), Ask("/x/a"), path="/{number}/{rest:path}")
def path_parameters(number: int, rest: Annotated[str, Path(min_length=1)]) -> Any:
    return [number, rest]


@add("query", Ask(), Ask("?q=1&many=1&many=2&flag=on"), Ask("?q=x"), Ask("?low=1&colour=red"), Ask("?colour=blue"))
def query_parameters(
    q: int | None = None,
    many: Annotated[list[int], Query()] = [],  # noqa: B006
    flag: bool = False,
    low: Annotated[int, Query(ge=0, alias="low")] = 0,
    colour: Colour = Colour.RED,
) -> Any:
    return [q, many, flag, low, colour]


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: int = 10
    order: Literal["up", "down"] = "up"


@add("query-model", Ask("?limit=3"), Ask("?limit=3&x=1"))
def query_model(filters: Annotated[Filters, Query()]) -> Any:
    return filters


@add("headers-and-cookies", Ask(headers=[("x-token", "t"), ("cookie", "a=1; b=2")]), Ask())
def headers_and_cookies(
    x_token: Annotated[str, Header()], a: Annotated[str | None, Cookie()] = None, user_agent: str | None = Header(None)
) -> Any:
    return [x_token, a, user_agent]


@add(
    "body",
    Ask(json={"a": 1}),
    Ask(json={"a": "x"}),
    Ask(content=b"{no json"),
    Ask(),
    Ask(content=b'{"a": 1}', headers=[("content-type", "text/plain")]),
    Ask(content=b'{"a": 1}'),
    methods=["POST"],
)
def body(inner: Inner) -> Any:
    return inner


@add("bodies", Ask(json={"inner": {"a": 1}, "n": 5}), Ask(json={"n": "x"}), methods=["POST"])
def bodies(inner: Inner, n: Annotated[int, Body(gt=0)]) -> Any:
    return [inner, n]


@add("embedded-body", Ask(json={"inner": {"a": 1}}), methods=["PATCH"], status_code=202)
def embedded_body(inner: Annotated[Inner, Body(embed=True)]) -> Inner:
    return inner


@add("raw-body", Ask(content=b"\x00raw"), methods=["POST"], twin=False)
async def raw_body(request: Request) -> Any:
    return Response(await request.body(), media_type=request.headers.get("content-type"))


@add("many-bodies", Ask(json=[{"a": 1}, {"a": 2}]), methods=["POST"])
def many_bodies(inners: list[Inner]) -> Any:
    return len(inners)


MULTIPART = b"\r\n".join(
    [
        b"--x",
        b'Content-Disposition: form-data; name="title"',
        b"",
        b"hello",
        b"--x",
        b'Content-Disposition: form-data; name="file"; filename="a.txt"',
        b"Content-Type: text/plain",
        b"",
        b"text",
        b"--x--",
        b"",
    ]
)
FORM_TYPE = ("content-type", "application/x-www-form-urlencoded")
FILE_TYPE = ("content-type", "multipart/form-data; boundary=x")


@add(
    "form",
    Ask(content=b"a=1&b=2&b=3", headers=[FORM_TYPE]),
    Ask(content=b"a=x", headers=[FORM_TYPE]),
    methods=["POST"],
)
def form(a: Annotated[int, Form()], b: Annotated[list[str], Form()] = []) -> Any:  # noqa: B006
    return [a, b]


@add("form-model", Ask(content=b"a=1", headers=[FORM_TYPE]), methods=["POST"])
def form_model(inner: Annotated[Inner, Form()]) -> Any:
    return inner


@add("file", Ask(content=MULTIPART, headers=[FILE_TYPE]), Ask(), methods=["POST"])
def file(title: Annotated[str, Form()], file: UploadFile, again: Annotated[bytes | None, File()] = None) -> Any:
    return [title, file.filename, file.file.read().decode(), again]


@add("request", Ask("?x=1"))
def request_itself(request: Request) -> Any:
    return [str(request.url), request.method, dict(request.path_params), request.scope["root_path"]]


@add("connection")
def connection_itself(connection: HTTPConnection, request: Request) -> Any:
    return [connection.url.path, request.scope is connection.scope]


@add("url-for")
def url_for(request: Request) -> Any:
    return str(request.url_for("annotated_model"))


@add("all-the-special-ones", Ask("?q=2"))
def all_the_special_ones(
    q: int, request: Request, response: Response, tasks: BackgroundTasks, scopes: SecurityScopes
) -> Any:
    tasks.add_task(RAN.append, "special")
    response.headers["x-scopes"] = scopes.scope_str
    return [q, request.url.query]


@add("keywords", Ask("?kwargs=a"), Ask())
def keywords(**kwargs: Any) -> Any:
    return kwargs


@add("keyword-only", Ask("?a=1&b=2"))
def keyword_only(a: int, *, b: int, request: Request) -> Any:
    return [a, b, request.method]


@add("defaults-before", Ask("?b=2"))
def defaults_before(a: int = 1, b: Annotated[int, Query()] = 5, *, c: Annotated[int, Depends(lambda: 3)]) -> Any:
    return [a, b, c]


class Service:
    def __init__(self, q: int = 1) -> None:
        self.q = q


@add("class-dependency", Ask("?q=5"))
def class_dependency(service: Annotated[Service, Depends()]) -> Any:
    return service.q


oauth = OAuth2PasswordBearer("token", scopes={"read": "r"}, auto_error=True)


@add("security", Ask(), Ask(headers=[("authorization", "Bearer t")]))
def security(token: Annotated[str, Security(oauth, scopes=["read"])]) -> Any:
    return token


def _exits(name: str) -> Callable[[], Iterator[str]]:
    def dependency() -> Iterator[str]:
        RAN.append(f"{name} entered")
        try:
            yield name
        except Exception as error:
            RAN.append(f"{name} saw {type(error).__name__}")
            raise
        finally:
            RAN.append(f"{name} left")

    return dependency


async def _async_exit() -> AsyncIterator[str]:
    RAN.append("async entered")
    yield "async"
    RAN.append("async left")


FUNCTION_SCOPED = Depends(_exits("function"), scope="function")
REQUEST_SCOPED = Depends(_exits("request"))


@add("exits")
def exits(
    tasks: BackgroundTasks,
    function: Annotated[str, FUNCTION_SCOPED],
    request: Annotated[str, REQUEST_SCOPED],
    task: Annotated[str, Depends(_async_exit)],
) -> Any:
    tasks.add_task(RAN.append, "task")
    RAN.append("endpoint")
    return [function, request, task]


@add("exits-of-an-error", dependencies=[FUNCTION_SCOPED, REQUEST_SCOPED])
def exits_of_an_error() -> None:
    raise HTTPException(409)


@add("exits-of-an-invalid-answer", response_model=Out, dependencies=[FUNCTION_SCOPED, REQUEST_SCOPED])
def exits_of_an_invalid_answer() -> Any:
    return {}


async def _sets_visitor() -> str:
    VISITOR.set("Ann")
    return "set"


@add("context-variable")
def context_variable(got: Annotated[str, Depends(_sets_visitor)]) -> Any:
    return [got, VISITOR.get()]


async def _keeps_state(request: Request) -> None:
    request.state.user = "Ann"


@add("request-state", dependencies=[Depends(_keeps_state)])
def request_state(request: Request) -> Any:
    return request.state.user


# Errors


@add("error-http")
def error_http() -> None:
    raise HTTPException(403, {"why": ["a"]}, {"x-why": "because"})


@add("error-no-body")
def error_no_body() -> None:
    raise HTTPException(304)


@add("error-handled")
def error_handled() -> None:
    raise LookupError("handled")


@add("error-unhandled")
def error_unhandled() -> None:
    raise RuntimeError("unhandled")


@add("error-validation")
def error_validation() -> None:
    raise RequestValidationError([{"loc": ("x",), "msg": "m", "type": "t"}])


@add("error-value")
def error_value() -> None:
    Inner(a="no number")
