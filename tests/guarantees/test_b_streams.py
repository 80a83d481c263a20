"""B6, B7, B8: answers and sockets that stay open for long hold a connection for database time only."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from apps.b_serving import POOL, Form, Served, Servers, comes_true
from support.clients import Request, held_open, statuses
from support.frames import receive, send, upgrade
from support.run import Run

pytestmark = pytest.mark.load
pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
PATIENT = {"DATABASE_QUEUE_TIMEOUT": "60"}  # 300 messages at once, one writer at a time, on a machine that is busy
CLIENTS = 200
ANSWERS = ("sse", "stream", "jsonl", "file")
ORDINARY = 1000
SAMPLES = 40


@pytest.fixture(scope="module")
def servers(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(run, tmp_path_factory.mktemp("streams"), app="apps.b_streams:app", env=PATIENT)
    yield made
    made.close()


def samples(served: Served, n: int = SAMPLES, every: float = 0.02) -> list[int]:
    """Look at how many connections are checked out, so often, so many seconds apart."""
    return served.ask(f"/samples?n={n}&every={every}").json()


def idle_in_transaction(served: Served) -> int:
    return 0 if served.postgresql is None else len(served.postgresql.idle_in_transaction(served.database_url))


def test_b6_200_clients_that_listen_hold_nothing_and_keep_nobody_waiting(form: Form) -> None:
    """Each had a query in its dependency or handler: streams of four kinds, and WebSockets."""
    url = form.served.server.url + form.prefix
    each = CLIENTS // (len(ANSWERS) + 1)
    with ExitStack() as clients:
        for answer in ANSWERS:
            clients.enter_context(held_open(Request("GET", f"{url}/{answer}"), each))
        for socket in clients.enter_context(held_open(upgrade(f"{url}/socket"), each)):
            assert receive(socket) == "Ann"
        assert set(samples(form.served)) == {0}
        assert idle_in_transaction(form.served) == 0
        assert statuses(form.burst("/one", ORDINARY, concurrency=16)) == {200: ORDINARY}
        assert set(samples(form.served)) == {0}
        assert idle_in_transaction(form.served) == 0
        assert form.served.watch()["most_open"] <= POOL


@pytest.mark.parametrize("path", ["own/large", "own/file", "plain/large", "plain/file"])
@pytest.mark.parametrize("middlewares", [0, 1])
@pytest.mark.parametrize(("database", "kind"), [("sqlite", "sync"), ("postgresql+asyncpg", "async")])
def test_b7_a_client_that_reads_nothing_of_a_large_body_holds_nothing(
    served: Callable[..., Served], database: str, kind: str, path: str, middlewares: int
) -> None:
    one = served(database, **({"BASE_MIDDLEWARES": str(middlewares)} if middlewares else {}))
    before = one.watch()["checkouts"]
    request = Request("GET", f"{one.server.url}/{kind}/{path}")
    with held_open(request, 20, read_head=False):
        assert comes_true(lambda: one.watch()["checkouts"] >= before + 20, 60.0)
        assert comes_true(lambda: one.watch()["checked_out"] == 0, 60.0)
        assert set(samples(one)) == {0}
        assert idle_in_transaction(one) == 0
        assert statuses(one.burst(f"/{kind}/own/one", 40, concurrency=8)) == {200: 40}


def test_b7_a_stream_that_asks_every_second_holds_a_connection_while_it_asks(form: Form) -> None:
    with held_open(Request("GET", f"{form.served.server.url}{form.prefix}/ticks?every=1"), 1):
        shares: list[float] = []
        while len(shares) < 5 and min(shares, default=1) > 0.05:  # the machine may be busy with something else
            seen = samples(form.served, 250, 0.01)
            shares.append(sum(one > 0 for one in seen) / len(seen))
    assert min(shares) <= 0.05


def test_b7_each_question_of_a_stream_has_a_connection_that_is_back_before_the_answer_is_sent_on(form: Form) -> None:
    with held_open(Request("GET", f"{form.served.server.url}{form.prefix}/ticks?every=0.01"), 1) as (socket,):
        received = b""
        while received.count(b"data: ") <= 20:
            more = socket.recv(4096)
            assert more, f"the stream ended after {received!r}"
            received += more
    events = [json.loads(one) for one in re.findall(rb"data: (\{.*?\})", received)][:20]
    first = events[0]["checkouts"]
    assert events == [{"in_use": 0, "checked_out": 0, "checkouts": first + i} for i in range(20)]


def test_b8_300_sockets_ask_over_5_connections_and_a_failed_message_undoes_itself_alone(form: Form) -> None:
    number = next(NUMBERS)
    one = form.served
    with held_open(upgrade(f"{one.server.url}{form.prefix}/messages"), 300) as sockets:
        for says, hears in (("note", "1"), ("fail", "failed"), ("note", "2")):
            for i, socket in enumerate(sockets):
                send(socket, f"{says} {number} {i}")
            assert [receive(socket) for socket in sockets] == [hears] * 300
    assert one.rows_like(f"note {number} %") == 600
    assert one.rows_like(f"fail {number} %") == 0
    assert one.watch()["most_open"] <= POOL
