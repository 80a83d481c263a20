"""B19: statements and locks have time-outs in the database itself, and the connection serves the next request."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count

import psycopg
import pytest

from apps.b_serving import FORMS, Form, Served, comes_true
from support.clients import statuses

pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
LIMIT = 0.4
PATIENCE = 20 * LIMIT


@pytest.fixture(params=FORMS, ids="-".join)
def slow(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """Every form of `b_slow`, with short limits."""
    database, kind, router = request.param
    limits = {"DATABASE_STATEMENT_TIMEOUT": f"{LIMIT}", "DATABASE_LOCK_TIMEOUT": f"{LIMIT / 2}"}
    return Form(served(database, app="apps.b_slow:app", **limits), database, kind, router)


def test_b19_a_statement_is_ended_at_its_limit_and_answered_504(slow: Form) -> None:
    log = slow.served.log_from_here()
    answers = slow.burst(lambda _: f"/forever/{next(NUMBERS)}", 7, concurrency=7)
    assert statuses(answers) == {504: 7}
    assert {answer.json()["code"] for answer in answers} == {"statement-timeout"}
    assert all(LIMIT * 0.9 < answer.seconds < PATIENCE for answer in answers)
    assert comes_true(slow.served.is_at_rest)
    assert not running(slow)
    assert statuses(slow.burst("/quick", 20, concurrency=5)) == {200: 20}
    assert "Traceback" not in log()


def test_b19_a_lock_that_is_not_given_in_time_is_answered_503(slow: Form) -> None:
    with locked_by_another_program(slow):
        answers = slow.burst("/locked", 2, method="POST")
    assert statuses(answers) == {503: 2}
    assert {answer.json()["code"] for answer in answers} == {"lock-timeout"}
    assert all(answer.seconds < PATIENCE for answer in answers)
    assert slow.ask("/locked", "POST").status == 201


def running(form: Form) -> list[object]:
    """List the statements that the server still works on."""
    if form.served.postgresql is None:
        return []
    return [one for one in form.served.postgresql.backends(form.served.database_url) if one.state == "active"]


@contextmanager
def locked_by_another_program(form: Form) -> Iterator[None]:
    """Keep every row of `notes` locked."""
    if form.served.postgresql is not None:
        url = form.served.postgresql.url(str(form.served.database_name))
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE notes")
            yield
            connection.rollback()
        return
    with closing(sqlite3.connect(str(form.served.database_name), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture(params=FORMS, ids="-".join)
def usual(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """Every form of `b_slow`, whose statements may take 0.7 s where the route says nothing."""
    database, kind, router = request.param
    return Form(served(database, app="apps.b_slow:app", DATABASE_STATEMENT_TIMEOUT="0.7"), database, kind, router)


def test_b19_a_route_may_take_longer_than_the_default(usual: Form) -> None:
    assert usual.ask("/long").status == 200  # one statement of a second


def test_b19_the_time_of_a_route_is_that_of_all_its_statements_together(usual: Form) -> None:
    answers = usual.burst("/seconds", 3, concurrency=3)  # ten statements of a second each; 1.5 s for all
    assert statuses(answers) == {504: 3}
    assert {answer.json()["code"] for answer in answers} <= {"statement-timeout", "deadline-exceeded"}
    assert all(1.4 < answer.seconds < 15 for answer in answers)
    assert comes_true(usual.served.is_at_rest)
    assert not running(usual)


def test_b19_nothing_is_stored_after_the_time_is_over(usual: Form) -> None:
    answer = usual.ask(f"/late/{usual.kind}{usual.router}", "POST")
    assert (answer.status, answer.json()["code"]) == (504, "deadline-exceeded")
    assert usual.served.rows(f"{usual.kind}{usual.router}") == 0
    answer = usual.ask("/begin/mark", "POST")
    assert (answer.status, answer.json()["code"]) == (504, "statement-timeout")
    assert usual.served.rows("mark") == 0
