"""Variants by what they return: values, response models, response classes and status codes."""

import dataclasses
import datetime
import enum
import functools
import ipaddress
import pathlib
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pydantic.dataclasses
from fastapi import Response
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

from apps.a_variants import Inner, Out, Plain, add, add_answer

T = TypeVar("T")
NOW = datetime.datetime(2026, 11, 22, 10, 30, tzinfo=datetime.UTC)
SOME_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

# What is returned


class Colour(enum.Enum):
    RED = "red"


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
