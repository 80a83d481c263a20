"""A2: what fails only at COMMIT is answered as what it is."""

import asyncio
import secrets

from apps.a_app import PARENT, create
from apps.a_asgi import ask, running
from apps.a_serving import Backend, Cell
from support.clients import Request, burst, keep_alive, statuses

pytest_plugins = ["apps.a_fixtures"]

EXACT = 200
NOBODY = 999_999


def test_a2_commit_failure_is_never_2xx_and_leaves_the_connection_usable(cell: Cell) -> None:
    """200 POSTs without a parent, each followed on the same connection by one that has one."""
    bad, good = cell.name(), cell.name()
    requests: list[Request] = []
    for number in range(EXACT):
        wrong, right = {"name": f"{bad}-{number}", "parent_id": NOBODY}, {"name": good, "parent_id": PARENT}
        requests += [cell.request("POST", "/children", wrong), cell.request("POST", "/children", right)]
    answers = keep_alive(*requests)
    assert statuses(answers[::2]) == {409: EXACT}
    assert statuses(answers[1::2]) == {201: EXACT}
    assert cell.backend.count(bad, "children") == 0
    assert cell.backend.count(good, "children") == EXACT
    problem = answers[0]
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["code"] == "foreign-key-violation"


def test_a2_commit_failure_of_concurrent_requests_is_never_2xx(cell: Cell) -> None:
    bad = cell.name()
    answers = burst(
        cell.url("/children"),
        EXACT,
        concurrency=32,
        method="POST",
        json=lambda number: {"name": f"{bad}-{number}", "parent_id": NOBODY},
    )
    assert statuses(answers) == {409: EXACT}
    assert cell.backend.count(bad, "children") == 0


def test_a2_of_many_who_want_one_seat_at_commit_one_gets_it(postgresql_cell: Cell) -> None:
    """A deferred unique constraint: the losers wait for the winner at COMMIT; some may be deadlock victims."""
    cell, name = postgresql_cell, postgresql_cell.name()
    seat = secrets.randbelow(2**31)
    answers = burst(
        cell.url("/children"),
        EXACT,
        concurrency=32,
        method="POST",
        json=lambda number: {"name": f"{name}-{number}", "seat": seat},
    )
    counted = statuses(answers)
    assert counted[201] == 1
    assert counted[409] + counted[503] == EXACT - 1
    assert {one.json()["code"] for one in answers if one.status == 503} <= {"deadlock"}
    assert {one.json()["code"] for one in answers if one.status == 409} == {"unique-violation"}
    assert cell.backend.count(name, "children") == 1


def test_a2_commit_failure_replaces_every_kind_of_answer(cell: Cell) -> None:
    """Also where the INSERT itself is sent by the commit."""
    for answer in ("model", "response", "stream", "file", "redirect"):
        for flush in (True, False):
            name = cell.name()
            wrong, right = {"name": name, "parent_id": NOBODY}, {"name": f"{name}-right", "parent_id": PARENT}
            failed, stored = keep_alive(
                cell.request("POST", "/children", wrong, answer=answer, flush=flush),
                cell.request("POST", "/children", right, answer=answer, flush=flush),
            )
            assert (failed.status, failed.json()["code"]) == (409, "foreign-key-violation"), answer
            assert stored.status in {201, 303}, answer
            found = cell.backend.rows("SELECT name FROM children WHERE name LIKE :name", name=f"{name}%")
            assert found == [(f"{name}-right",)], answer


def test_a2_background_tasks_of_a_request_that_could_not_commit_do_not_run(backend: Backend) -> None:
    """Looked at from the same process: a call of the application returns after its background tasks."""
    paths = [
        f"{prefix}/children?answer={answer}"
        for prefix in backend.prefixes
        for answer in ("model", "response", "stream")
    ]

    async def talk() -> list[str]:
        app = create(backend.url)
        async with running(app):
            for path in paths:
                wrong = await ask(app, "POST", path, json={"name": "wrong", "parent_id": NOBODY})
                right = await ask(app, "POST", path, json={"name": "right", "parent_id": PARENT})
                assert (wrong.status, wrong.error, right.status) == (409, None, 201), path
        return app.state.ran

    assert asyncio.run(talk()) == ["right"] * len(paths)
