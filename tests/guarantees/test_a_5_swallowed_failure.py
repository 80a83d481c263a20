"""A5: a handler that swallows a failed statement can not turn it into a success."""

import pytest

from apps.a_serving import Cell
from apps.a_sessions import FAILURES

pytest_plugins = ["apps.a_fixtures"]

SENT = [name for name in FAILURES if not name.startswith("refused")]
"""Failures that the database tells of; the others never reach it."""


@pytest.mark.parametrize("failure", FAILURES)
def test_a5_a_swallowed_failure_is_never_2xx_and_stores_nothing(cell: Cell, failure: str) -> None:
    for path in ("/swallow", "/swallow-and-go-on", "/swallow-in-dependency", "/swallow-then-commit"):
        name = cell.name()
        answer = cell.post(f"{path}/{failure}", name=name)
        assert answer.status == 500, (path, answer)
        assert answer.headers["content-type"] == "application/problem+json", path
        assert answer.json()["code"] == "transaction-aborted", path
        assert cell.backend.count(name) == 0, path


@pytest.mark.parametrize("failure", FAILURES)
def test_a5_a_swallowed_failure_of_a_get_is_never_2xx_and_stores_nothing(cell: Cell, failure: str) -> None:
    name = cell.name()
    answer = cell.get(f"/swallow-in-get/{failure}", name=name)
    assert (answer.status, answer.json()["code"]) == (500, "transaction-aborted")
    assert cell.backend.count(name) == 0


@pytest.mark.parametrize("failure", FAILURES)
def test_a5_a_failure_inside_a_savepoint_leaves_the_rest_stored(cell: Cell, failure: str) -> None:
    name = cell.name()
    assert cell.post(f"/savepoint/{failure}", name=name).status == 200
    assert cell.backend.count(name) == 1
    nested = cell.name()
    assert cell.post(f"/savepoint-in-savepoint/{failure}", name=nested).status == 200
    assert cell.backend.count(nested) == 2


@pytest.mark.parametrize("failure", FAILURES)
def test_a5_a_savepoint_before_the_failure_does_not_forgive_it(cell: Cell, failure: str) -> None:
    name = cell.name()
    answer = cell.post(f"/savepoint-then-swallow/{failure}", name=name)
    assert (answer.status, answer.json()["code"]) == (500, "transaction-aborted")
    assert cell.backend.count(name) == 0


@pytest.mark.parametrize("failure", FAILURES)
def test_a5_work_after_the_handlers_own_rollback_is_stored(cell: Cell, failure: str) -> None:
    name = cell.name()
    assert cell.post(f"/swallow-then-rollback/{failure}", name=name).status == 200
    assert cell.backend.count(name) == cell.backend.count(f"{name}-next") == 1
