"""A4: an answer from 400 on means that nothing happened, however it came about."""

import asyncio
from collections.abc import Iterable

from apps.a_commits import COMMITTED
from apps.a_serving import Cell
from support.clients import Answer, Connection

pytest_plugins = ["apps.a_fixtures"]

STATUSES = (400, 401, 404, 409, 422, 500, 503)


def test_a4_a_raised_http_exception_stores_nothing(cell: Cell) -> None:
    stores_nothing(cell, "/fail/http")


def test_a4_a_raised_plain_exception_stores_nothing(cell: Cell) -> None:
    """With a handler of the application that answers each status, and without one."""
    stores_nothing(cell, "/fail/plain")
    stores_nothing(cell, "/fail/unhandled", (500,))


def test_a4_a_returned_response_stores_nothing(cell: Cell) -> None:
    stores_nothing(cell, "/fail/returned")


def test_a4_a_status_set_on_the_injected_response_stores_nothing(cell: Cell) -> None:
    stores_nothing(cell, "/fail/injected")


def test_a4_an_exception_in_a_sub_dependency_stores_nothing(cell: Cell) -> None:
    stores_nothing(cell, "/fail/sub-dependency")
    stores_nothing(cell, "/fail/sub-dependency-plain")


def test_a4_an_exception_in_the_exit_of_a_function_scoped_dependency_stores_nothing(cell: Cell) -> None:
    stores_nothing(cell, "/fail/exit")
    stores_nothing(cell, "/fail/exit-plain")
    stores_nothing(cell, "/fail/exit-unhandled", (500,))


def test_a4_a_response_validation_error_stores_nothing(cell: Cell) -> None:
    """Its handler of the application answers each status."""
    stores_nothing(cell, "/fail/validation")
    stores_nothing(cell, "/fail/serialisation", (500,))


def test_a4_a_request_validation_error_stores_nothing_of_the_dependencies(cell: Cell) -> None:
    """FastAPI runs the dependencies before it looks at the rest of the request."""
    stores_nothing(cell, "/fail/request-validation", (422,))


def test_a4_the_exit_of_a_request_scoped_dependency_comes_too_late_to_undo(cell: Cell) -> None:
    """The exception is for the log: the client has read 200 by then, and 200 means stored."""
    name = cell.name()
    assert cell.post("/late-exit", name=name).status == 200
    assert cell.backend.count(name) == 1


def test_a4_a_status_in_commit_on_is_stored_and_no_other(cell: Cell) -> None:
    """`transaction(commit_on={409})`, however the status comes about."""
    ways = ("http", "plain", "returned", "injected", "validation", "sub-dependency", "exit", "exit-plain")
    for way in ways:
        seen = asyncio.run(_ask(cell, f"/commit-on/{way}", STATUSES))
        assert all(answer.status == status for status, (_, answer, _) in seen.items()), way
        rows = {status: count for status, (_, _, count) in seen.items()}
        assert rows == {status: int(status == COMMITTED) for status in STATUSES}, way


def stores_nothing(cell: Cell, path: str, statuses: Iterable[int] = STATUSES) -> None:
    """Ask for each status, on one connection while it lasts, and look for the row after each answer."""
    for status, (name, answer, rows) in asyncio.run(_ask(cell, path, statuses)).items():
        assert answer.status == status, (path, status, answer)
        assert rows == 0, (path, status, name)


async def _ask(cell: Cell, path: str, statuses: Iterable[int]) -> dict[int, tuple[str, Answer, int]]:
    connection = Connection()
    seen: dict[int, tuple[str, Answer, int]] = {}
    for status in statuses:
        name = cell.name()
        answer = await connection.send(cell.request("POST", path, name=name, status=status))
        seen[status] = (name, answer, cell.backend.count(name))
    connection.close()
    return seen
