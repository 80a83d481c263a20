"""B19: a client that goes away cancels its running read in the server; a write completes."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest

from apps.b_serving import FORMS, Form, Served, comes_true
from support.clients import Request, held_open, keep_alive, reset_when_closed, statuses

pytest_plugins = ["apps.b_fixtures"]
AWAY = 0.8  # seconds: more than the 0.5 after which a client is watched
STACKED = ("0", "1", "4")  # BaseHTTPMiddlewares around the request
NUMBERS = count(1)


@pytest.fixture(params=FORMS, ids="-".join)
def slow(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """Every form of `b_slow`."""
    return form_of(request.param, served)


@pytest.fixture(params=[one for one in FORMS if one[1] == "async"], ids="-".join)
def slow_async(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """The forms with an async session."""
    return form_of(request.param, served)


def form_of(names: tuple[str, str, str], served: Callable[..., Served]) -> Form:
    database, kind, router = names
    return Form(served(database, app="apps.b_slow:app", DATABASE_QUEUE_TIMEOUT="60"), database, kind, router)


def leave(form: Form, what: str, method: str = "GET") -> list[str]:
    """Ask from below 0, 1 and 4 middlewares at once, go away while the server is at it, and give the marks."""
    marks = [f"{what} {next(NUMBERS)}" for _ in STACKED]
    with ExitStack() as clients:
        for mark, stacked in zip(marks, STACKED, strict=True):
            request = request_to(form, f"/{what}/{mark}", method, stacked=stacked)
            (client,) = clients.enter_context(held_open(request, 1, read_head=False))
            reset_when_closed(client)
        for mark in marks:
            assert form.served.ask(f"/moments/begun {mark}").status == 200
        time.sleep(AWAY)  # what is tested is how long they were there
    return marks


def request_to(form: Form, path: str, method: str = "GET", *, stacked: str = "0", **options: Any) -> Request:
    return Request(method, form.served.server.url + quote(form.prefix + path), headers={"Stacked": stacked}, **options)


def test_b19_a_client_that_goes_away_cancels_its_read_in_the_server(slow: Form) -> None:
    log = slow.served.log_from_here()
    leave(slow, "forever")
    # It would run for a minute; ten times the one second that is promised.
    assert comes_true(slow.served.is_at_rest, 10.0)
    assert not active(slow)
    assert statuses(slow.burst("/quick", 20, concurrency=5)) == {200: 20}
    assert comes_true(lambda: log().count("its client went away") == len(STACKED))
    for words in ("Traceback", "Exception", "Error"):
        assert words not in log()


def test_b19_what_a_handler_does_after_its_client_has_gone_is_refused_and_not_stored(slow: Form) -> None:
    marks = leave(slow, "stubborn")
    found = [slow.served.ask(f"/moments/{mark}").json() for mark in marks]
    first = {outcomes[0] for outcomes in found}
    # On SQLite such a statement counts as one that may write, and the others wait for the first.
    assert first & {"OperationalError", "DBAPIError"}
    assert first <= {"OperationalError", "DBAPIError", "UnitEnded"}
    assert all(outcomes[1:] == ["UnitEnded", "UnitEnded"] for outcomes in found)
    assert [slow.served.rows(mark) for mark in marks] == [0, 0, 0]


def test_b19_a_write_whose_client_goes_away_completes(slow: Form) -> None:
    for mark in leave(slow, "second", "POST"):
        assert comes_true(lambda mark=mark: slow.served.rows(mark) == 1, 60.0)


def test_b19_the_application_hears_of_the_client_as_it_does_without_us(slow_async: Form) -> None:
    for mark in leave(slow_async, "asks"):
        assert slow_async.served.ask(f"/moments/{mark}").json() == "seen"


def test_b19_a_body_that_is_read_late_is_whole(slow_async: Form) -> None:
    body = "x" * 200_000
    requests = [request_to(slow_async, "/body", stacked=stacked, json=body) for stacked in STACKED]
    for request in requests:
        first, second = keep_alive(request, request_to(slow_async, "/quick"))
        assert first.json() == f'"{body}"'
        assert second.status == 200


def active(form: Form) -> list[object]:
    """List the statements that the server still works on."""
    if form.served.postgresql is None:
        return []
    return [one for one in form.served.postgresql.backends(form.served.database_url) if one.state == "active"]
