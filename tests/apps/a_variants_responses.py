"""Variants by how they take part in the response: the injected one, returned ones, background tasks."""

from collections.abc import Callable
from typing import Annotated, Any

from annotated_doc import Doc
from fastapi import BackgroundTasks, Depends, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection

from apps.a_variants import RAN, Out, Plain, add, add_answer

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
