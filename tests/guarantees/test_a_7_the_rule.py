"""A7: a returned response is decided by its status, an exception that leaves the endpoint always rolls back."""

import asyncio

import pytest

from apps.a_serving import Cell
from support.clients import Connection

pytest_plugins = ["apps.a_fixtures"]

STORED = (200, 201, 202, 203, 205, 206, 207, 226, 300, 301, 302, 303, 307, 308, 399)
BODYLESS = (204, 304)
UNDONE = (400, 401, 402, 403, 404, 409, 410, 412, 418, 422, 429, 451, 499, 500, 501, 502, 503, 504, 599)
STATUSES = (*STORED, *BODYLESS, *UNDONE)
KINDS = ("empty", "json", "text", "html", "redirect", "stream", "file")
EXCEPTIONS = {"forgiven": 200, "status-handler": 200, "http-200": 200, "http-303": 303, "unforeseen": 200}


@pytest.mark.parametrize("kind", KINDS)
def test_a7_a_returned_response_is_decided_by_its_status(cell: Cell, kind: str) -> None:
    """Every status for an empty response; the ends of the range, 303 and 404 for the other classes."""
    wanted = STATUSES if kind == "empty" else (200, 303, 400, 404, 599)
    for status, (answered, rows) in asyncio.run(returned(cell, kind, wanted)).items():
        assert answered == status
        assert rows == (status < 400), status


async def returned(cell: Cell, kind: str, wanted: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    connection = Connection()
    seen = {}
    for status in wanted:
        name = cell.name()
        answer = await connection.send(cell.request("POST", f"/returned/{kind}", name=name, status=status))
        seen[status] = (answer.status, cell.backend.count(name))
    connection.close()
    return seen


@pytest.mark.parametrize("where", ["endpoint", "sub-dependency", "exit"])
def test_a7_an_exception_rolls_back_whatever_its_handler_answers(cell: Cell, where: str) -> None:
    for what, status in EXCEPTIONS.items():
        name = cell.name()
        answer = cell.post(f"/raise/{where}/{what}", name=name)
        assert (answer.status, cell.backend.count(name)) == (status, 0), what


def test_a7_the_rule_holds_for_a_session_in_a_dependency_of_the_other_kind(cell: Cell) -> None:
    """A `def` dependency below an `async def` endpoint, and the reverse; the endpoint takes no session itself."""
    expected = [
        ("model", 200, 1),
        ("returned", 200, 1),
        ("returned", 303, 1),
        ("returned", 400, 0),
        ("returned", 503, 0),
        ("raised", 303, 0),
        ("raised", 404, 0),
        ("forgiven", 200, 0),
    ]
    for way, status, rows in expected:
        name = cell.name()
        answer = cell.post(f"/mixed/{way}", name=name, status=status)
        assert (answer.status, cell.backend.count(name)) == (status, rows), way
