"""C6: what can not be loaded is a clear error, and never an empty list."""

import re

import pytest
from fastapi.exceptions import ResponseValidationError
from fastapi.testclient import TestClient
from sqlalchemy.orm import raiseload

from apps.c_cases import Kind, work
from apps.c_library import Author, AuthorNever, AuthorTitles, BossOut, Employee
from apps.c_relationships import OF_AUTHORS, OF_EMPLOYEES, TITLES, all_of, serving, small_library


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("where", ["mapping", "query", "wildcard"])
def test_c6_a_relationship_that_may_not_load_fails_and_is_never_empty(
    kind: Kind, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = small_library()
    options = {"mapping": [], "query": [raiseload(Author.books)], "wildcard": [raiseload("*")]}
    statement = OF_AUTHORS.options(*options[where])
    model, name = (AuthorNever, "never") if where == "mapping" else (AuthorTitles, "books")
    routes = {"/": (all_of(statement), list[model])}  # type: ignore[valid-type]
    with serving(kind, db, routes) as client:
        said = refused(client, caplog)
    assert f"'Author.{name}' is not available due to lazy='raise'" in said
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_objects_in_a_circle_are_the_clear_error_they_are_without_us(kind: Kind) -> None:
    db = small_library()
    with db.begin() as session:
        session.add_all([Employee(id=1), Employee(id=2, boss_id=1)])
        session.flush()
        session.get_one(Employee, 1).boss_id = 2
    with (
        serving(kind, db, {"/": (all_of(OF_EMPLOYEES), list[BossOut])}) as client,
        pytest.raises(ResponseValidationError, match="cyclic reference"),
    ):
        client.get("/")
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_an_object_of_an_ended_unit_fails_and_is_never_empty(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    db = small_library()
    kept = work(db, kind, all_of(OF_AUTHORS))
    with serving(kind, db, {"/": (lambda _: kept, list[AuthorTitles])}) as client:
        assert re.search(r"unit-ended|not bound to a Session", refused(client, caplog))
    db.close()


def test_c6_on_a_plain_router_an_unloaded_relationship_of_an_async_session_is_a_clear_error(
    request: pytest.FixtureRequest, async_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = small_library(async_url)
    with (
        serving("async", db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}, plain=True) as client,
        pytest.raises(ResponseValidationError) as caught,
    ):
        client.get("/")
    said = str(caught.value)
    for part in ("LoadOutsideSession", '"GET /"', "Author.books", "selectinload(Author.books)", "load-outside-session"):
        assert part in said
    with serving(
        "async", db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}, plain=True, raise_server_exceptions=False
    ) as client:
        answer = client.get("/")
    assert (answer.status_code, "[]" in answer.text) == (500, False)
    db.close()


@pytest.mark.parametrize("backend", ["sqlite_url", "postgresql_url"])
def test_c6_on_a_plain_router_a_sync_session_loads_as_it_always_did(
    request: pytest.FixtureRequest, backend: str
) -> None:
    db = small_library(request.getfixturevalue(backend))
    with serving("sync", db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}, plain=True) as client:
        assert client.get("/").json() == TITLES
    db.close()


def refused(client: TestClient, caplog: pytest.LogCaptureFixture) -> str:
    """Get an answer that must be an error, and give what was said about it: raised as FastAPI does, or logged by us."""
    try:
        answer = client.get("/")
    except ResponseValidationError as error:
        return str(error)
    assert answer.status_code == 500
    assert "[]" not in answer.text
    return caplog.text
