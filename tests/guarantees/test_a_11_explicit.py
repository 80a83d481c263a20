"""A11: the session's own methods keep SQLAlchemy's meaning, and an application with commits of its own runs on."""

import asyncio

import pytest

from apps.a_serving import Backend, Backends, Cell
from support.clients import Answer, Connection, Request, keep_alive

pytest_plugins = ["apps.a_fixtures"]

JOHN = {"email": "john@example.com", "password": "swordfish"}
JANE = {"email": "jane@example.com", "password": "tomatoes"}
FORK = {"title": "Fork", "description": "to eat with"}
CONVERSATION: list[tuple[str, str, object]] = [
    ("GET", "/users/", None),
    ("POST", "/users/", JOHN),
    ("POST", "/users/", JOHN),
    ("POST", "/users/", JANE),
    ("POST", "/users/hasty", JANE),
    ("POST", "/users/ensure", JANE),
    ("POST", "/users/", {"email": "nobody"}),
    ("GET", "/users/", None),
    ("GET", "/users/?skip=1&limit=1", None),
    ("GET", "/users/1", None),
    ("GET", "/users/99", None),
    ("POST", "/users/1/items/", FORK),
    ("POST", "/users/1/items/", {"title": "Knife"}),
    ("POST", "/users/2/items/", {"title": "Spoon"}),
    ("GET", "/users/1", None),
    ("GET", "/users/", None),
    ("GET", "/items/", None),
    ("DELETE", "/items/2", None),
    ("DELETE", "/items/2", None),
    ("PATCH", "/users/2", None),
    ("GET", "/users/", None),
    ("POST", "/async/users/", JOHN),
    ("POST", "/async/users/", {"email": "jim@example.com", "password": "x"}),
    ("POST", "/async/users/ensure", JOHN),
    ("POST", "/async/users/ensure", {"email": "jill@example.com", "password": "x"}),
    ("POST", "/async/users/1/items/", {"title": "Plate"}),
    ("GET", "/async/users/", None),
    ("GET", "/users/", None),
    ("GET", "/items/", None),
]


def test_a11_an_explicit_commit_is_durable_at_once(cell: Cell) -> None:
    """Seen by another connection while the handler still runs; a flush alone is not."""
    answer, during, after = asyncio.run(look_in_the_middle(cell, "commit"))
    assert (answer.status, during, after) == (200, 1, 1)
    answer, during, after = asyncio.run(look_in_the_middle(cell, "flush"))
    assert (answer.status, during, after) == (200, 0, 1)


async def look_in_the_middle(cell: Cell, step: str) -> tuple[Answer, int, int]:
    name = cell.name()
    handler, gate = Connection(), Connection()
    gates = f"{cell.backend.server.url}/gates/{name}"
    running = asyncio.create_task(handler.send(cell.request("POST", f"/explicit/{step}/gated", name=name)))
    reached = await gate.send(Request("POST", f"{gates}/reached"))
    assert reached.json() is True
    during = cell.backend.count(name)
    await gate.send(Request("POST", f"{gates}/open"))
    answer = await running
    handler.close()
    gate.close()
    return answer, during, cell.backend.count(name)


@pytest.mark.parametrize("returned", [False, True], ids=["raised", "returned"])
def test_a11_an_error_after_a_commit_undoes_only_what_came_later(cell: Cell, returned: bool) -> None:
    for status in (400, 404, 500, 503):
        name = cell.name()
        answer = cell.post(f"/explicit/commit-then/{status}", name=name, returned=returned)
        assert answer.status == status
        assert (cell.backend.count(f"{name}-kept"), cell.backend.count(f"{name}-later")) == (1, 0)


def test_a11_what_comes_after_a_commit_is_committed_with_the_answer(cell: Cell) -> None:
    name = cell.name()
    assert cell.post("/explicit/commit-then/201", name=name).status == 201
    assert (cell.backend.count(f"{name}-kept"), cell.backend.count(f"{name}-later")) == (1, 1)


def test_a11_two_commits_are_both_durable(cell: Cell) -> None:
    name = cell.name()
    assert cell.post("/explicit/commit-twice", name=name).status == 500
    assert cell.backend.count(name) == 2


@pytest.mark.parametrize("method", ["rollback", "close"])
def test_a11_rollback_and_close_undo_what_came_before_and_the_session_goes_on(cell: Cell, method: str) -> None:
    name = cell.name()
    assert cell.post(f"/explicit/{method}", name=name).status == 200
    assert (cell.backend.count(f"{name}-undone"), cell.backend.count(f"{name}-kept")) == (0, 1)


def test_a11_close_without_commit_stores_nothing(cell: Cell) -> None:
    name = cell.name()
    assert cell.post("/explicit/close-last", name=name).status == 200
    assert cell.backend.count(name) == 0


def test_a11_flush_gives_the_key_and_the_answer_commits_it(cell: Cell) -> None:
    name = cell.name()
    told = cell.post("/explicit/flush", name=name).json()
    assert told["before"] is None
    assert cell.backend.rows("SELECT id FROM things WHERE name = :name", name=name) == [(told["after"],)]


def test_a11_refresh_reads_what_the_database_has(cell: Cell) -> None:
    assert cell.post("/explicit/refresh", name=cell.name()).json() == {"before": 1, "after": 2}
    name = cell.name()
    told = cell.post("/explicit/refresh-after-commit", name=name).json()
    assert (told["name"], told["number"]) == (name, 1)
    assert cell.backend.rows("SELECT id FROM things WHERE name = :name", name=name) == [(told["id"],)]


def test_a11_an_expunged_object_is_not_written_any_more(cell: Cell) -> None:
    name = cell.name()
    assert cell.post("/explicit/expunge", name=name).json() == {"number": 2, "in database": 1}
    rows = cell.backend.rows("SELECT name, number FROM things WHERE name LIKE :name", name=f"{name}%")
    assert rows == [(f"{name}-kept", 1)]


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_a11_an_existing_application_with_its_own_commits_runs_unchanged(backends: Backends, name: str) -> None:
    """The tutorial's application answers the same on its own `get_db` and on `get_db = db.session`."""
    copied, ours = (converse(backends.make(name), get_db) for get_db in ("copied", "ours"))
    for step, theirs, answer in zip(CONVERSATION, copied, ours, strict=True):
        assert (answer.status, answer.body) == (theirs.status, theirs.body), step
        assert answer.headers["content-type"] == theirs.headers["content-type"], step
    assert {one.status for one in ours} == {200, 400, 404, 422}


def converse(backend: Backend, get_db: str) -> list[Answer]:
    server = backend.serve("apps.a_tutorial:app", factory=False, GET_DB=get_db)
    answers = keep_alive(*(Request(method, server.url + path, json) for method, path, json in CONVERSATION))
    server.stop()
    backend.close()
    return answers
