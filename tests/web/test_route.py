"""The route class where an application extends it, and `@transaction` wherever it stands."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router
from apps.notes import Note, notes
from fastapi_database import APIRouter, Database, DatabaseRoute, transaction


class Audited(DatabaseRoute):
    """A route class of an application, as FastAPI documents it: it looks at the answer, and may give another one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            response = await handler(request)
            return JSONResponse({}, 403) if b"forbidden" in response.body else response

        return handle


class AuditedToo(Audited):
    """A route class below one that changes answers."""


@pytest.mark.parametrize("route_class", [Audited, AuditedToo])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_a_route_class_turns_into_an_error_stores_nothing(
    db: Database, kind: Kind, route_class: type[DatabaseRoute]
) -> None:
    app, audited = FastAPI(), APIRouter(route_class=route_class)
    for text in ("forbidden", "allowed"):
        audited.add_api_route(f"/{text}", endpoint(db, kind, adding(text)), methods=["POST"])
    db.install(app)
    app.include_router(audited)
    with TestClient(app) as client:
        assert client.post("/forbidden").status_code == 403
        assert notes(db) == []
        assert client.post("/allowed").status_code == 200
    assert notes(db) == ["allowed"]


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["above", "below", "above and below"])
def test_transaction_stands_above_or_below_the_route_decorator(
    db: Database, kind: Kind, routes: str, place: str
) -> None:
    app, added = FastAPI(), router(routes)
    for status in (401, 403):
        # A decorator of FastAPI gives back the endpoint it was given: what stands above it sees the same function.
        function = endpoint(db, kind, adding(f"{status}", then=HTTPException(status)))
        if place != "above":
            function = transaction(commit_on={401} if place == "below" else {403})(function)
        added.post(f"/{status}")(function)
        if place != "below":
            transaction(commit_on={401})(function)
    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        assert client.post("/401").status_code == 401
        assert client.post("/403").status_code == 403
    assert notes(db) == ["401"]


def adding(text: str, *, then: Exception | None = None) -> Callable[[Any], str]:
    """Give the body of an endpoint that adds a note and answers its text, or raises."""

    def work(session: Any) -> str:
        session.add(Note(text=text))
        session.flush()
        if then is not None:
            raise then
        return text

    return work
