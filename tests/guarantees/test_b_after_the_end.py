"""B1, B3, B7a: what a session does after its unit has ended, in background tasks, streams and sockets."""

import json
import time
from collections import Counter
from itertools import count, product

import httpx
import pytest
from httpx_ws import WebSocketDisconnect, WebSocketUpgradeError, connect_ws

from apps.b_serving import Form, comes_true
from support.clients import statuses

pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
HOWS = ["background", "task", "stream"]
USES = {"sync": ["execute", "get", "lazy", "refresh", "write"]}
USES["async"] = [*USES["sync"], "bare lazy"]


def test_b1_a_session_used_after_its_unit_says_what_to_write_instead(form: Form) -> None:
    log = form.served.log_from_here()
    for how, use in product(HOWS, USES[form.kind]):
        name = f"{form.kind} {form.router} {how} {use} {next(NUMBERS)}"
        assert form.ask(f"/escape/{how}/{use}?name={name}").status == 200
        if how == "task":
            form.served.ask(f"/moments/go {name}", "POST")
        outcome = form.served.ask(f"/moments/{name}").json()
        assert (outcome["error"], outcome["code"]) == ("UnitEnded", "unit-ended"), (how, use, outcome)
        assert "with db.begin() as session:" in outcome["message"]
        assert f'"GET {form.prefix}/escape/{{how}}/{{use}}"' in outcome["message"]
        seen = form.served.watch()
        assert (seen["in_use"], seen["checked_out"]) == (0, 0)
        if form.served.postgresql is not None:
            assert not form.served.postgresql.idle_in_transaction(form.served.database_url)
    assert form.served.rows("escaped") == 0
    assert "never retrieved" not in log()


def test_b1_200_requests_that_let_their_session_escape_leave_nothing_to_the_garbage_collector(form: Form) -> None:
    log = form.served.log_from_here()
    kinds = list(product(HOWS, USES[form.kind]))
    names = [f"escape {form.prefix} {next(NUMBERS)}" for _ in range(200)]

    def path(i: int) -> str:
        how, use = kinds[i % len(kinds)]
        return f"/escape/{how}/{use}?name={names[i]}"

    assert statuses(form.burst(path, 200, concurrency=8)) == {200: 200}
    form.served.burst(lambda i: f"/moments/go {names[i]}", 200, method="POST")
    outcomes = form.served.burst(lambda i: f"/moments/{names[i]}", 200)
    assert Counter(outcome.json()["error"] for outcome in outcomes) == {"UnitEnded": 200}
    form.served.ask("/collect", "POST")
    assert "garbage collector" not in log()
    assert comes_true(form.served.is_at_rest, 0.1)


def test_b3_the_connection_is_back_before_the_background_task_starts(form: Form) -> None:
    for _ in range(10):
        name = f"{form.prefix} {next(NUMBERS)}"
        assert form.ask(f"/background?name={name}", "POST").status == 200
        seen = form.served.ask(f"/moments/{name}").json()
        assert (seen["in_use"], seen["checked_out"], seen["waiting"]) == (0, 0, 0)
        assert (form.served.rows(f"request {name}"), form.served.rows(f"task {name}")) == (1, 1)


def test_b3_a_background_task_that_fails_is_logged_with_its_route_and_stores_nothing(form: Form) -> None:
    log = form.served.log_from_here()
    name = f"fails-{next(NUMBERS)}"
    assert form.ask(f"/background-fails/{name}", "POST").status == 200
    assert comes_true(lambda: f"on purpose, {name}" in log())
    assert f'"POST {form.prefix}/background-fails/{{name}}" failed' in log()  # the route, not what a client put there
    assert (form.served.rows(f"request {name}"), form.served.rows(f"task {name}")) == (1, 0)


@pytest.mark.parametrize("stream", ["stream", "jsonl", "sse"])
def test_b7a_the_unit_serves_the_dependencies_and_ends_before_the_body_begins(form: Form, stream: str) -> None:
    for _ in range(20):
        mark = f"{stream}{form.prefix} {next(NUMBERS)}"
        answer = form.ask(f"/{stream}?mark={mark}")
        assert answer.status == 200
        seen = json.loads(answer.body.decode().removeprefix("data: ").strip())
        assert (seen["mark"], seen["in_use"], seen["checked_out"], seen["rows"]) == (mark, 0, 0, 1)


@pytest.mark.parametrize("stream", ["stream", "jsonl", "sse"])
def test_b7a_a_body_never_begins_when_its_dependencies_stored_nothing(form: Form, stream: str) -> None:
    for fails, status in (("refuses", 403), ("commit", 409)):
        mark = f"{fails} {stream}{form.prefix} {next(NUMBERS)}"
        answer = form.ask(f"/{stream}?mark={mark}&fails={fails}")
        assert (answer.status, b"rows" in answer.body, form.served.rows(mark)) == (status, False, 0)


def test_b7a_a_websocket_is_not_accepted_when_its_dependencies_stored_nothing(form: Form) -> None:
    for fails in ("refuses", "commit"):
        mark = f"{fails} socket{form.prefix} {next(NUMBERS)}"
        url = httpx.URL(f"{form.served.server.url}{form.prefix}/socket", params={"mark": mark, "fails": fails})
        with httpx.Client() as client, pytest.raises((WebSocketUpgradeError, WebSocketDisconnect)):
            receive_from(str(url), client)
        assert form.served.rows(mark) == 0


def receive_from(url: str, client: httpx.Client) -> object:
    with connect_ws(url, client, keepalive_ping_interval_seconds=None) as socket:
        return socket.receive_json(timeout=30)


def test_b7a_the_unit_of_a_websocket_ends_before_its_body_begins(form: Form) -> None:
    for _ in range(10):
        mark = f"socket{form.prefix} {next(NUMBERS)}"
        url = httpx.URL(f"{form.served.server.url}{form.prefix}/socket", params={"mark": mark})
        with httpx.Client() as client:
            seen = receive_from(str(url), client)
        assert (seen["mark"], seen["in_use"], seen["checked_out"], seen["rows"]) == (mark, 0, 0, 1)


def test_b1_nothing_is_checked_out_100_ms_after_the_last_of_200_answers(form: Form) -> None:
    assert statuses(form.burst("/one", 200, concurrency=16)) == {200: 200}
    time.sleep(0.1)  # the figure of the guarantee
    seen = form.served.watch()
    assert (seen["in_use"], seen["checked_out"], seen["waiting"]) == (0, 0, 0)
