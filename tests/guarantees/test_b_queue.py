"""B2, B5, B10, B22, B24: who takes a connection, for how long, and what happens to those who wait."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Thread

import psycopg
import pytest

from apps.b_serving import FORMS, POOL, Form, Served, comes_true
from support.clients import Answer, Connection, Request, send_burst, statuses
from support.postgres import PostgreSQL

pytestmark = pytest.mark.load

pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
QUEUE_TIMEOUT = 0.5
# Handlers and dependencies that make a 401 of every exception, by raising and by returning it.
PATHS = {
    "sync": ["/one", "/guarded"],
    "async": ["/one", "/guarded", "/raises-401", "/returns-401"],
}


def test_b2_a_thousand_requests_that_never_query_touch_no_connection(form: Form) -> None:
    before = form.served.watch()
    seen_by_the_server = last_queries(form.served)
    assert statuses(form.burst("/declares", 1000, concurrency=8)) == {200: 1000}
    after = form.served.watch()
    for name in ("checkouts", "connects", "statements"):
        assert after[name] == before[name], name
    assert last_queries(form.served) == seen_by_the_server


@pytest.mark.parametrize("names", FORMS, ids="-".join)
def test_b5_400_clients_at_once_are_all_answered_and_the_rest_of_the_application_goes_on(
    served: Callable[..., Served], names: tuple[str, str, str]
) -> None:
    # It is about 400 requests that never wait for each other, not about how many this machine answers in 5 s.
    form = form_on(served(names[0], DATABASE_QUEUE_TIMEOUT="60"), names)
    before = form.served.watch()
    busy, pings = asyncio.run(burst_and_pings(form, "/library", 400))
    assert statuses(busy) == {200: 400}
    books = [{"title": "First"}, {"title": "Second"}]
    assert all(answer.json()[:2] == [{"name": "Ann", "books": books}, {"name": "Bob", "books": []}] for answer in busy)
    assert statuses(pings) == {200: len(pings)}
    assert percentile([answer.seconds for answer in pings], 0.99) < 1.0
    after = form.served.watch()
    assert (after["timed_out"], after["refused"]) == (before["timed_out"], before["refused"])
    assert after["peak"] <= POOL  # however often and however a route declares the session


@pytest.mark.parametrize("database", ["sqlite", "postgresql+psycopg"])
@pytest.mark.parametrize("path", ["/declares", "/one", "/write", "/write?fail=1"])
def test_b5_from_handler_to_release_a_def_endpoint_is_one_hop_to_a_thread(
    served: Callable[..., Served], database: str, path: str
) -> None:
    assert hops(Form(served(database), database, "sync", "own"), path) == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql+psycopg", "postgresql+asyncpg"])
@pytest.mark.parametrize("router", ["own", "plain"])
@pytest.mark.parametrize("path", ["/declares", "/one", "/write", "/write?fail=1", "/library"])
def test_b5_an_async_endpoint_needs_no_thread(
    served: Callable[..., Served], database: str, router: str, path: str
) -> None:
    assert hops(Form(served(database), database, "async", router), path) == 0


def test_b5_each_def_dependency_costs_one_more_hop(served: Callable[..., Served]) -> None:
    assert hops(Form(served("sqlite"), "sqlite", "sync", "own"), "/library") == 2


@pytest.mark.parametrize("names", FORMS, ids="-".join)
def test_b10_while_the_pool_is_busy_each_of_100_gets_503_in_time_and_then_200(
    served: Callable[..., Served], names: tuple[str, str, str]
) -> None:
    form = form_on(served(names[0], DATABASE_QUEUE_TIMEOUT=str(QUEUE_TIMEOUT)), names)
    paths = PATHS[form.kind]
    log = form.served.log_from_here()
    with pool_held(form):
        refused = form.burst(lambda i: paths[i % len(paths)], 100, concurrency=100)
    assert_refused_in_time(refused)
    assert "Traceback" not in log()
    assert [form.ask(path).status for path in paths] == [200] * len(paths)


@pytest.mark.parametrize("names", FORMS, ids="-".join)
def test_b10_a_dependency_that_swallows_the_error_of_db_begin_is_answered_with_503_too(
    served: Callable[..., Served], names: tuple[str, str, str]
) -> None:
    form = form_on(served(names[0], DATABASE_QUEUE_TIMEOUT=str(QUEUE_TIMEOUT)), names)
    with pool_held(form):
        refused = form.burst("/guarded-by-begin", 20, concurrency=20)
    assert_refused_in_time(refused)
    assert form.ask("/guarded-by-begin").status == 200


def test_b22_a_handler_that_has_not_queried_yet_holds_nothing(async_form: Form) -> None:
    answers, seconds = asyncio.run(timed_burst(async_form, "/late?seconds=2", 100))
    assert statuses(answers) == {200: 100}
    assert seconds < 4.0


@pytest.mark.parametrize("database", ["postgresql+psycopg", "postgresql+asyncpg"])
def test_b24_sync_and_async_routes_together_open_no_more_than_max_connections(
    served: Callable[..., Served], postgresql: PostgreSQL, database: str
) -> None:
    one = served(database)
    prefixes = [f"/{kind}/{router}/one" for kind in ("sync", "async") for router in ("own", "plain")]
    answers: list[Answer] = []
    hammer = Thread(target=lambda: answers.extend(one.burst(lambda i: prefixes[i % 4], 400, concurrency=32)))
    samples: list[tuple[float, set[int]]] = []
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:
        hammer.start()
        while hammer.is_alive():
            found = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (one.database_name,))
            samples.append((time.monotonic(), {pid for (pid,) in found}))
        hammer.join()
    assert statuses(answers) == {200: 400}
    seen = one.watch()
    assert (seen["most_open"], seen["peak"]) == (POOL, POOL)  # one limit, whatever declares a session of whichever kind
    assert max(map(len, lasting(samples, 0.5))) <= POOL


def lasting(samples: list[tuple[float, set[int]]], seconds: float) -> Iterator[set[int]]:
    """Give the backends of each sample that are there a while later too: not those that were about to end."""
    later = iter(samples)
    at, present = next(later)
    for start, pids in samples:
        while at < start + seconds:
            try:
                at, present = next(later)
            except StopIteration:
                return
        yield pids & present


def form_on(served: Served, names: tuple[str, str, str]) -> Form:
    return Form(served, *names)


@contextmanager
def pool_held(form: Form) -> Iterator[None]:
    """Have requests hold every connection that may be open; they are answered 200 afterwards."""
    held: list[Answer] = []
    name = f"hold {form.prefix} {next(NUMBERS)}"
    holders = Thread(target=lambda: held.extend(form.burst(f"/hold/{name}", POOL, concurrency=POOL)))
    holders.start()
    try:
        assert comes_true(lambda: form.served.watch()["checked_out"] == POOL)
        yield
    finally:
        form.served.ask(f"/moments/{name}", "POST")
        holders.join()
    assert statuses(held) == {200: POOL}


def assert_refused_in_time(answers: list[Answer]) -> None:
    assert statuses(answers) == {503: len(answers)}
    for answer in answers:
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        assert (answer.json()["status"], answer.json()["code"]) == (503, "queue-timeout")
        assert answer.seconds < 10 * QUEUE_TIMEOUT


async def burst_and_pings(form: Form, path: str, n: int) -> tuple[list[Answer], list[Answer]]:
    url = form.served.server.url
    busy = asyncio.create_task(send_burst(f"{url}{form.prefix}{path}", n, concurrency=n))
    pings: list[Answer] = []
    connection = Connection()
    while not busy.done():
        pings.append(await connection.send(Request("GET", f"{url}/ping")))
    connection.close()
    return await busy, pings


async def timed_burst(form: Form, path: str, n: int) -> tuple[list[Answer], float]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    answers = await send_burst(f"{form.served.server.url}{form.prefix}{path}", n, concurrency=n)
    return answers, loop.time() - start


def hops(form: Form, path: str) -> int:
    """Count how often one request goes to a thread."""
    method = "POST" if path.startswith("/write") else "GET"
    before = form.served.watch()["hops"]
    assert form.ask(path, method).status in {200, 201, 418}
    return form.served.watch()["hops"] - before


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def last_queries(served: Served) -> list[tuple[object, ...]]:
    """Give which statement each backend ran last, and when."""
    if served.postgresql is None:
        return []
    return served.postgresql.execute(
        "SELECT pid, query_start FROM pg_stat_activity WHERE datname = %s ORDER BY pid", served.database_name
    )
