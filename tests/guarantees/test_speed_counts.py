"""Against SQLAlchemy written by hand with care, in the same mode: no statement more, no round trip more, bounded calls.

The applications are the benchmark's (bench/apps): `handwritten_sync` and `handwritten_async` beside ours, with the same
endpoints. Each runs under a real uvicorn, is warmed up, and then gets the same requests one by one.
"""

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from bench.apps.model import LISTED, URL_VARIABLE, Base, User
from bench.subjects import ENDPOINTS, Endpoint
from sqlalchemy import create_engine, insert, make_url, text

from support.postgres import with_psycopg
from support.server import Server
from support.wire import Wire, watched

pytestmark = pytest.mark.load

REQUESTS = 20
WARMING = 10  # psycopg prepares a statement when it sees it for the sixth time
MODES = ("sync", "async")
READABLE = {"PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}  # what support/wire.py can read
BOUNDS = ("BEGIN", "COMMIT", "ROLLBACK")
# What ours may call more than hand-written code does, per request: small functions of Python, at 0.05 to 0.1 µs each
# some 20 µs. Sync routes call 700 fewer, async ones 150 to 310 more (Python 3.11, SQLAlchemy 2.1.9).
SCHEMA = "PRAGMA schema_version"
MORE_CALLS = 330


@dataclass
class Client:
    """One keep-alive connection to a server."""

    connection: http.client.HTTPConnection

    def send(self, endpoint: Endpoint, times: int) -> None:
        """Send an endpoint's requests one by one; each has to be answered with a 2xx."""
        requests = endpoint.stream()
        for _ in range(times):
            head, _, body = next(requests).partition(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            self.connection.request(method, path, body or None, {"content-type": "application/json"} if body else {})
            answer = self.connection.getresponse()
            assert answer.status < 300, answer.read()
            answer.read()

    def counted(self) -> Any:
        """Read what tests/apps/counted.py has counted since it was last asked."""
        self.connection.request("GET", "/counted")
        return json.load(self.connection.getresponse())


@pytest.fixture
def ask(serve: Callable[..., Server]) -> Iterator[Callable[..., Client]]:
    """Start an application of the benchmark, warm it up, and give a client of it."""
    clients: list[Client] = []

    def start(name: str, url: str, *, counted: str | None = None) -> Client:
        app = f"bench.apps.{name}:app"
        if counted is None:
            server = serve(app, env={URL_VARIABLE: url, **READABLE})
        else:
            env = {URL_VARIABLE: url, "COUNTED_APP": app, "COUNTED": counted}
            server = serve("apps.counted:create", env=env, args=["--factory"])
        client = Client(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60))
        clients.append(client)
        for endpoint in ENDPOINTS:
            client.send(endpoint, WARMING)
        return client

    yield start
    for client in clients:
        client.connection.close()


@pytest.mark.parametrize("mode", MODES)
def test_no_request_sends_postgresql_more_statements_or_waits_for_it_more_often_than_hand_written_code(
    postgresql_url: str, mode: str, ask: Callable[..., Client]
) -> None:
    fill(postgresql_url)
    server = make_url(postgresql_url)
    seen: dict[str, dict[str, tuple[int, list[str]]]] = {}
    for name in (f"handwritten_{mode}", f"ours_{mode}"):
        with watched(server.host or "", server.port or 5432) as wire:
            client = ask(name, server.set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False))
            seen[name] = {endpoint.name: on_the_wire(client, wire, endpoint) for endpoint in ENDPOINTS}
    by_hand, ours = seen.values()
    for endpoint in ENDPOINTS:
        (trips_by_hand, theirs), (trips, statements) = by_hand[endpoint.name], ours[endpoint.name]
        shown = f"{endpoint.name}: {Counter(statements)}, by hand {Counter(theirs)}"
        assert 1 <= trips <= trips_by_hand, shown
        assert 1 <= each(len(statements)) <= each(len(theirs)), shown
        assert each(len(without_bounds(statements))) <= each(len(without_bounds(theirs))), shown


@pytest.mark.parametrize("mode", MODES)
def test_no_request_gives_sqlite_more_statements_than_hand_written_code_but_a_transaction_for_its_reads(
    sqlite_url: str, mode: str, ask: Callable[..., Client]
) -> None:
    """Python's driver begins no transaction for a SELECT, which breaks C2; ours does.

    And a write that may run on the event loop asks SQLite first whether the schema is the one it was judged with, in
    memory and without a hand-over to a thread. That is all that is added.
    """
    fill(sqlite_url)
    seen: dict[str, dict[str, list[str]]] = {}
    for name in (f"handwritten_{mode}", f"ours_{mode}"):
        client = ask(name, sqlite_url, counted="statements")
        seen[name] = {endpoint.name: counted(client, endpoint) for endpoint in ENDPOINTS}
    by_hand, ours = seen.values()
    for endpoint in ENDPOINTS:
        theirs, statements = by_hand[endpoint.name], ours[endpoint.name]
        shown = f"{endpoint.name}: {Counter(statements)}, by hand {Counter(theirs)}"
        judged = [one for one in statements if one == SCHEMA]
        assert each(len(judged)) <= (endpoint.name == "post" and mode == "async"), shown
        statements = ours[endpoint.name] = [one for one in statements if one != SCHEMA]
        work = without_bounds(statements)
        assert 1 <= each(len(work)) <= each(len(without_bounds(theirs))), shown
        assert each(len(statements) - len(work)) <= 2, shown
    assert each(len(ours["post"])) <= each(len(by_hand["post"]))


@pytest.mark.parametrize("mode", MODES)
def test_no_request_calls_many_more_functions_than_hand_written_code(
    url: str, mode: str, ask: Callable[..., Client]
) -> None:
    fill(url)
    calls: dict[str, dict[str, float]] = {}
    for name in (f"handwritten_{mode}", f"ours_{mode}"):
        client = ask(name, url, counted="calls")
        calls[name] = {endpoint.name: counted(client, endpoint) / REQUESTS for endpoint in ENDPOINTS}
    by_hand, ours = calls.values()
    for endpoint in ENDPOINTS:
        assert ours[endpoint.name] <= by_hand[endpoint.name] + MORE_CALLS, calls


def without_bounds(statements: list[str]) -> list[str]:
    """Leave out where transactions begin and end."""
    return [one for one in statements if not one.startswith(BOUNDS)]


def fill(url: str) -> None:
    """Make the benchmark's table with its rows."""
    engine = create_engine(with_psycopg(url))
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        connection.execute(insert(User), [{"id": n, "name": f"User {n}", "email": None} for n in range(1, LISTED + 1)])
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT setval(pg_get_serial_sequence('users', 'id'), {LISTED})"))
    engine.dispose()


def on_the_wire(client: Client, wire: Wire, endpoint: Endpoint) -> tuple[int, list[str]]:
    """Return the round trips per request, and all statements."""
    wire.clear()
    client.send(endpoint, REQUESTS)
    return each(wire.round_trips), wire.statements


def each(total: int) -> int:
    """Return how many that is per request.

    Not exact on purpose: hand-written code rolls back after its answer, so one may come too late, and a connection may
    be set up once in between.
    """
    return round(total / REQUESTS)


def counted(client: Client, endpoint: Endpoint) -> Any:
    """Return what the server counts while it answers."""
    client.counted()
    client.send(endpoint, REQUESTS)
    return client.counted()
