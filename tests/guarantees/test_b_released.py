"""B9: slow other work inside `db.released(session)` holds neither a connection, nor a place, nor a thread."""

from collections.abc import Iterator
from itertools import count

import pytest

from apps.b_serving import POOL, Form, Served, Servers
from support.clients import statuses
from support.run import Run

pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
MANY = 100  # twenty times the pool, and more than AnyIO has threads


@pytest.fixture(scope="module")
def servers(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(run, tmp_path_factory.mktemp("released"), app="apps.b_streams:app")
    yield made
    made.close()


def seen_at_gate(served: Served, name: str) -> dict[str, object]:
    return served.ask(f"/gates/{name}").json()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_b9_100_requests_wait_for_something_else_at_the_same_time_with_a_pool_of_5(form: Form, method: str) -> None:
    """On SQLite a POST holds the only writer's place, which is free meanwhile too."""
    name = f"gate-{next(NUMBERS)}"
    note = f"&note={name}" if method == "POST" else ""
    answers = form.burst(f"/released?name={name}&wanted={MANY}{note}", MANY, method=method, concurrency=MANY)
    assert statuses(answers) == {200: MANY}
    assert {answer.body for answer in answers} == {b'{"name":"Ann","then":1}'}
    assert seen_at_gate(form.served, name) == {"most": MANY, "in_use": [0]}
    assert form.served.rows(name) == (MANY if method == "POST" else 0)
    assert form.served.watch()["most_open"] <= POOL


@pytest.mark.parametrize(("fail", "method"), [("inside", "GET"), ("after", "POST")])
def test_b9_an_error_inside_the_block_or_after_it_stores_nothing_and_leaves_nothing(
    form: Form, fail: str, method: str
) -> None:
    name = f"gate-{next(NUMBERS)}"
    path = f"/released?name={name}&wanted={MANY}&note={name}&fail={fail}"
    assert statuses(form.burst(path, MANY, method=method, concurrency=MANY)) == {418: MANY}
    assert form.served.rows(name) == 0
    assert statuses(form.burst("/one", MANY, concurrency=MANY)) == {200: MANY}
