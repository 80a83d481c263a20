"""Endpoints of every kind that FastAPI takes, registered on one class of route or another: do both answer the same?"""

import asyncio
import contextvars
import dataclasses
import datetime
import enum
import functools
import inspect
import ipaddress
import pathlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import fastapi
import pydantic.dataclasses
from annotated_doc import Doc
from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
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
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection
from typing_extensions import TypedDict

T = TypeVar("T")
NOW = datetime.datetime(2026, 11, 22, 10, 30, tzinfo=datetime.UTC)
SOME_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("VISITOR", default="nobody")


@dataclass(frozen=True)
class Ask:
    """One request to a variant."""

    target: str = ""
    method: str = ""
    json: object = None
    content: bytes = b""
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Variant:
    """One endpoint, how it is registered, and what is asked of it."""

    name: str
    endpoint: Callable[..., Any]
    options: dict[str, Any]
    asks: Sequence[Ask]
    path: str
    twin: bool
    """Whether an `async def` form of it can be made."""


VARIANTS: list[Variant] = []


def add(
    variant: str, *asks: Ask, path: str = "", methods: Sequence[str] = ("GET",), twin: bool = True, **options: Any
) -> Callable[[Any], Any]:
    """Note an endpoint as a variant."""

    def note(endpoint: Any) -> Any:
        VARIANTS.append(Variant(variant, endpoint, {"methods": list(methods), **options}, asks or (Ask(),), path, twin))
        return endpoint

    return note


def add_answer(variant: str, make: Callable[[], Any], *asks: Ask, **options: Any) -> None:
    """Note an endpoint without parameters that returns what a function makes."""

    def answer() -> Any:
        return make()

    del answer.__annotations__["return"]
    add(variant, *asks, **options)(answer)


def as_async(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the same endpoint as `async def`."""

    async def twin(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    functools.update_wrapper(twin, function)
    del twin.__wrapped__
    twin.__signature__ = inspect.signature(function)
    return twin


# What is returned


class Colour(enum.Enum):
    RED = "red"


class Inner(BaseModel):
    a: int
    b: str = "x"


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str
    note: str | None = None


class Aliased(BaseModel):
    user_name: str = Field(alias="userName")
    shown: int = Field(1, serialization_alias="isShown")
    chosen: int = Field(2, validation_alias=AliasChoices("first", "second"))


class Nested(BaseModel):
    inner: Inner
    more: list[Inner] = []
    by_name: dict[str, Inner] = {}


class Computed(BaseModel):
    width: int
    moment: datetime.datetime = NOW

    @computed_field
    @property
    def area(self) -> int:
        return self.width**2

    @field_serializer("moment")
    def _moment(self, value: datetime.datetime) -> str:
        return f"at {value:%H:%M}"

    @field_validator("width")
    @classmethod
    def _width(cls, value: int) -> int:
        return value + 1


class Everything(BaseModel):
    decimal: Decimal = Decimal("1.50")
    moment: datetime.datetime = NOW
    day: datetime.date = NOW.date()
    hour: datetime.time = NOW.time()
    span: datetime.timedelta = datetime.timedelta(hours=1, seconds=2)
    uid: uuid.UUID = SOME_ID
    colour: Colour = Colour.RED
    blob: bytes = b"bytes"
    numbers: set[int] = {1}
    address: ipaddress.IPv4Address = ipaddress.IPv4Address("127.0.0.1")
    where: pathlib.PurePosixPath = pathlib.PurePosixPath("/tmp")
    secret: SecretStr = SecretStr("hidden")
    ratio: float = 0.1
    big: int = 2**70


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


class Names(RootModel[list[str]]): ...


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


@pydantic.dataclasses.dataclass
class Checked:
    x: int


class Typed(TypedDict):
    a: int
    b: str


class Pair(NamedTuple):
    a: int
    b: str


class Plain:
    """What an ORM object looks like to FastAPI."""

    def __init__(self) -> None:
        self.id, self.name, self.secret = 1, "Ann", "hidden"


VALUES: dict[str, Any] = {
    "dict": {"a": 1, "b": [1, 2, {"c": None}]},
    "dict-of-int-keys": {1: "a", 2: "b"},
    "empty-dict": {},
    "list": [1, "two", None, True],
    "none": None,
    "text": "plain text with ümläut and \u2028",
    "int": 7,
    "big-int": 2**80,
    "float": 0.1,
    "nan": float("nan"),
    "infinity": [float("inf"), float("-inf")],
    "bool": True,
    "decimal": Decimal("1.10"),
    "datetime": NOW,
    "date": NOW.date(),
    "time": NOW.time(),
    "timedelta": datetime.timedelta(minutes=3),
    "uuid": SOME_ID,
    "enum": Colour.RED,
    "bytes": b"bytes",
    "set": {1},
    "frozenset": frozenset({2}),
    "tuple": (1, "a"),
    "path": pathlib.PurePosixPath("/tmp/x"),
    "secret": SecretStr("hidden"),
    "dataclass": Point(1),
    "checked-dataclass": Checked(1),
    "named-tuple": Pair(1, "b"),
    "model": Inner(a=1),
    "model-with-aliases": Aliased(userName="ann", first=3),
    "models": [Inner(a=1), Inner(a=2, b="y")],
    "nested-model": Nested(inner=Inner(a=1), more=[Inner(a=2)]),
    "root-model": Names(["a", "b"]),
    "everything": Everything(),
    "computed": Computed(width=3),
    "plain-object": Plain(),
    "unserialisable": {"a": object()},
}


def _same(value: Any) -> Any:
    return value


for _name, _value in VALUES.items():
    add_answer(f"value-{_name}", functools.partial(_same, _value))

MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "filters": (Out, {"id": 1, "name": "Ann", "password": "x"}, {}),
    "from-object": (Out, Plain(), {}),
    "from-model": (Out, Everything(), {}),
    "list": (list[Out], [{"id": 1, "name": "a"}, Plain()], {}),
    "tuple": (tuple[int, str], (1, "a"), {}),
    "set": (set[int], [3], {}),
    "dict": (dict[str, Out], {"x": Plain()}, {}),
    "optional-none": (Out | None, None, {}),
    "optional": (Out | None, Plain(), {}),
    "union": (Cat | Dog, {"kind": "dog", "name": "Rex"}, {}),
    "discriminated": (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "cat", "lives": 9}, {}),
    "scalar": (int, "7", {}),
    "literal": (Literal["a", "b"], "a", {}),
    "any": (Any, {"a": object}, {}),
    "aliases": (Aliased, {"userName": "ann", "second": 5}, {}),
    "no-aliases": (Aliased, {"userName": "ann"}, {"response_model_by_alias": False}),
    "include": (Out, Plain(), {"response_model_include": {"id"}}),
    "exclude": (Out, Plain(), {"response_model_exclude": {"id"}}),
    "include-nested": (Nested, {"inner": {"a": 1}}, {"response_model_include": {"inner": {"a"}}}),
    "exclude-unset": (Out, {"id": 1, "name": "a"}, {"response_model_exclude_unset": True}),
    "exclude-defaults": (Inner, {"a": 1, "b": "x"}, {"response_model_exclude_defaults": True}),
    "exclude-none": (Out, {"id": 1, "name": "a", "note": None}, {"response_model_exclude_none": True}),
    "exclude-unset-model": (Nested, Nested(inner=Inner(a=1)), {"response_model_exclude_unset": True}),
    "generic": (Page[Inner], {"items": [{"a": 1}], "total": 1}, {}),
    "root": (Names, ["x"], {}),
    "dataclass": (Point, {"x": 5}, {}),
    "dataclass-value": (Point, Point(1), {}),
    "typed-dict": (Typed, {"a": 1, "b": "c"}, {}),
    "named-tuple": (Pair, Pair(1, "x"), {}),
    "everything": (Everything, Everything(), {}),
    "computed": (Computed, {"width": 3}, {}),
    "none": (None, {"id": 1}, {}),
    "invalid": (Out, {"id": "x"}, {}),
    "invalid-none": (Out, None, {}),
    "invalid-list": (list[Out], [{"id": 1}, {"name": "a"}], {}),
    "explicit-json-class": (Out, Plain(), {"response_class": JSONResponse}),
    "html-class": (str, "<p>", {"response_class": HTMLResponse}),
    "created": (Out, Plain(), {"status_code": 201}),
    "no-content": (None, None, {"status_code": 204}),
    "responses": (Out, Plain(), {"responses": {404: {"model": Inner}}, "description": "d", "tags": ["t"]}),
    "operation": (Out, Plain(), {"operation_id": "mine", "summary": "s", "deprecated": True}),
    "extra": (Out, Plain(), {"openapi_extra": {"x-a": 1}, "include_in_schema": True, "name": "named"}),
    "hidden": (Out, Plain(), {"include_in_schema": False}),
}
for _name, (_model, _value, _options) in MODELS.items():
    add_answer(f"model-{_name}", functools.partial(_same, _value), response_model=_model, **_options)


@add("annotated-model")
def annotated_model() -> Out:
    """Its return annotation is its response model.

    More words.
    \f
    Not in the schema.
    """
    return Plain()


@add("annotated-list")
def annotated_list() -> list[Inner]:
    return [Inner(a=1)]


@add("annotated-none")
def annotated_none() -> None: ...


@add("annotated-response")
def annotated_response() -> Response:
    return Response("x", media_type="text/x")


@add("annotated-redirect")
def annotated_redirect() -> RedirectResponse:
    return RedirectResponse("/elsewhere")


@add("annotated-and-switched-off", response_model=None)
def annotated_union() -> Response | dict[str, int]:
    return {"a": 1}


@add("annotated-and-overridden", response_model=Inner)
def annotated_and_overridden() -> dict[str, Any]:
    return {"a": 1, "c": 3}


# Response classes and status codes


class Indented(JSONResponse):
    media_type = "application/vnd.indented+json"

    def render(self, content: Any) -> bytes:
        return repr(content).encode()


class Strict(PlainTextResponse):
    """Takes what FastAPI passes, by these names."""

    def __init__(self, content: Any, status_code: int = 200, background: Any = None) -> None:
        super().__init__(f"{content}!", status_code, {"x-background": str(background is not None)})


CLASSES: dict[str, tuple[type[Response], Callable[[], Any]]] = {
    "json": (JSONResponse, lambda: {"a": 1}),
    "html": (HTMLResponse, lambda: "<p>ü</p>"),
    "text": (PlainTextResponse, lambda: "text"),
    "empty": (Response, lambda: b"bytes"),
    "redirect": (RedirectResponse, lambda: "/else where"),
    "file": (FileResponse, lambda: __file__),
    "stream": (StreamingResponse, lambda: iter(["a", "b"])),
    "custom": (Indented, lambda: {"a": 1}),
    "strict": (Strict, lambda: "x"),
}
for _name, (_class, _make) in CLASSES.items():
    add_answer(f"class-{_name}", _make, response_class=_class)
    add_answer(f"class-{_name}-203", _make, response_class=_class, status_code=203)
for _status in (200, 201, 202, 203, 204, 205, 206, 207, 226, 300, 304, 400, 404, 418, 500, 599):
    add_answer(f"status-{_status}", lambda: {"a": 1}, status_code=_status)
    add_answer(f"status-{_status}-none", lambda: None, status_code=_status)


# The injected response


@add("injected-headers")
def injected_headers(response: Response) -> dict[str, int]:
    response.headers["X-One"] = "1"
    response.headers.append("X-Two", "a")
    response.headers.append("X-Two", "b")
    return {"a": 1}


@add("injected-cookies")
def injected_cookies(response: Response) -> dict[str, int]:
    response.set_cookie("a", "1", max_age=10, path="/x", secure=True, httponly=True, samesite="strict")
    response.set_cookie("b", "2")
    return {"a": 1}


@add("injected-content-type")
def injected_content_type(response: Response) -> str:
    response.headers["content-type"] = "text/x"
    return "x"


for _status in (201, 204, 304, 404, 503):

    @add(f"injected-status-{_status}", status_code=202)
    def injected_status(response: Response, status: int = _status) -> dict[str, int]:
        response.status_code = status
        return {"a": 1}


@add("injected-by-another-name")
def injected_by_another_name(answer: Response, q: int = 1) -> int:
    answer.headers["x-q"] = str(q)
    return q


@add("injected-annotated")
def injected_annotated(
    response: Annotated[Response, Doc("the response")], request: Annotated[Request, Doc("the request")]
) -> str:
    response.headers["x-path"] = request.url.path
    return request.method


@add("injected-subclass")
def injected_subclass(response: JSONResponse) -> int:
    response.headers["x-a"] = "1"
    return 1


def _sets_header(response: Response) -> str:
    response.headers["x-dependency"] = "yes"
    response.status_code = 207
    return "dependency"


@add("injected-into-a-dependency")
def injected_into_a_dependency(got: Annotated[str, Depends(_sets_header)]) -> str:
    return got


@add("injected-into-both")
def injected_into_both(response: Response, got: Annotated[str, Depends(_sets_header)]) -> str:
    response.headers["x-endpoint"] = "yes"
    return got


@add("injected-and-returned")
def injected_and_returned(response: Response) -> Response:
    response.headers["x-lost"] = "yes"
    response.set_cookie("a", "1")
    response.status_code = 418
    return JSONResponse({"a": 1})


def _makes_response() -> Response:
    return Response("made", headers={"x-made": "1"}, status_code=418)


def _makes_request(request: Request) -> Request:
    return Request({**request.scope, "path": "/made"})


@add("a-dependency-gives-a-response")
def a_dependency_gives_a_response(made: Response = Depends(_makes_response)) -> str:  # noqa: B008
    return made.body.decode()


@add("a-dependency-gives-an-annotated-response")
def a_dependency_gives_an_annotated_response(made: Annotated[Response, Depends(_makes_response)]) -> str:
    return made.body.decode()


@add("a-dependency-gives-a-request")
def a_dependency_gives_a_request(
    response: Response,
    made: Request = Depends(_makes_request),  # noqa: B008
) -> str:
    response.headers["x-made"] = made.url.path
    return made.url.path


@add("a-dependency-gives-nothing-for-a-request")
def a_dependency_gives_nothing(made: Annotated[HTTPConnection, Depends(lambda: None)]) -> str:
    return repr(made)


# Returned responses and background tasks

RETURNED: dict[str, Callable[[], Response]] = {
    "response": lambda: Response(b"x", 202, {"x-a": "1"}, "text/x"),
    "json": lambda: JSONResponse({"ü": None}, 201),
    "html": lambda: HTMLResponse("<p>"),
    "redirect": lambda: RedirectResponse("/x", 303),
    "stream": lambda: StreamingResponse(iter([b"a", b"b"]), media_type="text/csv"),
    "file": lambda: FileResponse(__file__, filename="f.py"),
    "no-content": lambda: Response(status_code=204),
    "not-modified": lambda: Response(status_code=304),
    "error": lambda: JSONResponse({"error": True}, 500),
}
for _name, _make in RETURNED.items():
    add_answer(f"returned-{_name}", _make)
    add_answer(f"returned-{_name}-overrides", _make, status_code=203, response_model=Out, response_class=HTMLResponse)

RAN: list[str] = []
"""What background tasks and exits noted, in order."""


@add("background")
def background(tasks: BackgroundTasks) -> str:
    tasks.add_task(RAN.append, "background")
    return "x"


@add("background-and-returned-response")
def background_and_returned_response(tasks: BackgroundTasks) -> Response:
    tasks.add_task(RAN.append, "injected")
    return JSONResponse({})


@add("background-of-the-response")
def background_of_the_response(tasks: BackgroundTasks) -> Response:
    tasks.add_task(RAN.append, "injected, and lost")
    return JSONResponse({}, background=BackgroundTask(RAN.append, "of the response"))


@add("background-with-model", response_model=Out, status_code=201)
def background_with_model(tasks: BackgroundTasks) -> Any:
    tasks.add_task(RAN.append, "with model")
    return Plain()


def _adds_task(tasks: BackgroundTasks) -> None:
    tasks.add_task(RAN.append, "of the dependency")


@add("background-of-a-dependency", dependencies=[Depends(_adds_task)])
def background_of_a_dependency(tasks: BackgroundTasks) -> None:
    tasks.add_task(RAN.append, "of the endpoint")


@add("background-that-fails")
def background_that_fails(tasks: BackgroundTasks) -> None:
    tasks.add_task([].index, 1)


@add("background-and-no-content", status_code=204)
def background_and_no_content(tasks: BackgroundTasks) -> None:
    tasks.add_task(RAN.append, "no content")


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


# Callables


class Callable_:  # noqa: N801
    """A callable object."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, q: int = 1) -> str:
        """Answer."""
        return f"{self.prefix}{q}"

    def method(self, q: int = 2) -> str:
        """Answer as a method."""
        return f"{self.prefix}{q}"

    @classmethod
    def of_class(cls, q: int = 3) -> str:
        return f"{cls.__name__}{q}"

    @staticmethod
    def static(q: int = 4) -> str:
        return f"{q}"


class AsyncCallable:
    async def __call__(self, response: Response, q: int = 1) -> str:
        response.headers["x-async"] = "yes"
        return f"async {q}"


def greet(greeting: str, name: str = "Ann", *, mark: str = "!") -> str:
    """Greet."""
    return f"{greeting} {name}{mark}"


async def greet_slowly(greeting: str, name: str = "Ann") -> str:
    """Greet."""
    await asyncio.sleep(0)
    return f"{greeting} {name}"


def _sync_around(function: Any) -> Any:
    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def _async_around(function: Any) -> Any:
    @functools.wraps(function)
    async def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def _awaiting_around(function: Any) -> Any:
    @functools.wraps(function)
    async def around(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return around


class Model(BaseModel):
    """A class is a callable, too."""

    q: int = 1


CALLABLES: dict[str, Any] = {
    "instance": Callable_("i"),
    "async-instance": AsyncCallable(),
    "method": Callable_("m").method,
    "class-method": Callable_.of_class,
    "static-method": Callable_.static,
    "class": Service,
    "model-class": Model,
    "lambda": lambda q=1: q,
    "partial": functools.partial(greet, "hello"),
    "partial-keyword": functools.partial(greet, mark="?"),
    "partial-of-partial": functools.partial(functools.partial(greet, "hi"), mark="."),
    "partial-async": functools.partial(greet_slowly, "hello"),
    "partial-instance": functools.partial(Callable_("p"), q=7),
    "partial-method": functools.partial(Callable_("pm").method),
    "sync-around-sync": _sync_around(greet),
    "sync-around-async": _sync_around(greet_slowly),
    "async-around-sync": _async_around(greet),
    "async-around-async": _awaiting_around(greet_slowly),
    "partial-of-around": functools.partial(_async_around(greet), "hello"),
    "cached": functools.lru_cache(greet),
}
for _name, _callable in CALLABLES.items():
    add(f"callable-{_name}", Ask("?greeting=hi"), Ask("?greeting=hi&name=Bob&q=9"), twin=False)(_callable)


@add("twice-decorated", Ask(), path="/first")
@add("twice-decorated-again", Ask(), path="/second", status_code=202)
def decorated_twice() -> str:
    return "x"


# Methods
for _method in ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"):
    add_answer(f"method-{_method}", lambda: {"a": 1}, Ask(method=_method), Ask(method="GET"), methods=[_method])


@add(
    "methods",
    *(Ask(method=one) for one in ("GET", "POST", "HEAD", "OPTIONS")),
    methods=["GET", "POST", "HEAD"],
    include_in_schema=False,
)
def methods(request: Request) -> Any:
    return request.method


# Generators


@add("json-lines", twin=False)
def json_lines() -> Iterator[Inner]:
    yield Inner(a=1)
    yield Inner(a=2)


@add("json-lines-async", twin=False)
async def json_lines_async(q: int = 2) -> AsyncIterator[dict[str, int]]:
    for number in range(q):
        yield {"n": number}


@add("events", response_class=EventSourceResponse, twin=False)
async def events() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(data={"a": 1}, event="e", id="1")
    yield ServerSentEvent(raw_data="raw", retry=5)


@add("events-sync", response_class=EventSourceResponse, twin=False)
def events_sync(response: Response) -> Iterator[Inner]:
    response.headers["x-a"] = "1"
    yield Inner(a=1)


@add("raw-generator", response_class=StreamingResponse, twin=False)
def raw_generator(request: Request) -> Iterator[bytes]:
    yield request.method.encode()
    yield b"!"


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
