"""B5, B10, B12, B19: many clients, a busy pool, and clients that go away."""

import asyncio
import random
import time

from bench.conformance.apps.model import WAIT
from bench.conformance.checks.check import POSTGRESQL, Check, Observed, all_are, counted, good, new_item, verdict
from bench.conformance.served import Request, Served
from support.clients import send_and_abort

CLIENTS = 400
CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%pg_sleep%%'"


async def many_clients(served: Served) -> Observed:
    """400 clients at once: a dependency that queries, a list with a relationship, a response model; pings beside.

    Requests wait up to 30 s for a connection here, so that a slow machine refuses nobody: 15 s without an answer are
    a stall.
    """
    await served.restart(wait=30)
    waits = []

    async def ping() -> None:
        while True:
            waits.append((await served.ask("GET", "/ping", timeout=15)).seconds)
            await asyncio.sleep(0.05)

    pinging = asyncio.create_task(ping())
    answers = await served.burst("/library", CLIENTS, concurrency=CLIENTS, timeout=15)
    pinging.cancel()
    waits.sort()
    p99 = waits[int(len(waits) * 0.99)] if waits else 0
    value = f"{counted(answers)}; p99 of a route without database {p99:.2f} s"
    return verdict(all_are(answers, 200) and p99 < 1, value)


async def busy_pool(served: Served) -> Observed:
    """Five statements hold all connections; 20 more requests: what are they told, and when? Then all is free."""
    item = await new_item(served, "b10")
    holders = [asyncio.create_task(served.ask("GET", "/slow?seconds=30", timeout=20)) for _ in range(5)]
    try:
        await _until_running(served, 5)
        answers = await served.burst(f"/items/{item}", 20, concurrency=20, timeout=WAIT + 3)
    finally:
        served.database.server.execute(CANCEL, served.database.name)
        await asyncio.wait(holders, timeout=3)
        for holder in holders:
            holder.cancel()
    after = await served.ask("GET", f"/items/{item}", timeout=4)
    slowest = max(answer.seconds for answer in answers)
    hints = sum("retry-after" in answer.headers for answer in answers)
    traces = sum(b"Traceback" in answer.body for answer in answers)
    value = f"{counted(answers)} after {slowest:.1f} s, Retry-After in {hints}; then {after.status or 'none'}"
    holds = all_are(answers, 503) and hints == 20 and not traces and after.status == 200
    return verdict(holds and slowest <= WAIT + 1.5, value)


async def clients_that_abort(served: Served) -> Observed:
    """160 requests aborted at random points within 0.3 s: plain reads, writes, streams, SSE; then 50 ordinary ones."""
    item = await new_item(served, "b12")
    paths = [
        ("GET", "/slow?seconds=0.2"),
        ("POST", "/slow-write?mark=b12&seconds=0.1"),
        ("GET", "/stream"),
        ("GET", "/sse"),
    ]
    chance, places = random.Random(12), asyncio.Semaphore(20)

    async def one(number: int, seconds: float) -> None:
        method, path = paths[number % len(paths)]
        async with places:
            await send_and_abort(Request(method, served.url(path)), seconds)

    await asyncio.gather(*(one(number, chance.uniform(0, 0.3)) for number in range(160)))
    held = served.database.settled(within=3)
    backends = served.database.backends()
    log = served.log()
    lines = log.count("garbage collector") + log.count("Exception terminating")
    answers = await served.burst(f"/items/{item}", 50, concurrency=8, timeout=6)
    value = f"{held} connections held, {backends} open, {lines} log lines; then {counted(answers)}"
    return verdict(held == 0 and backends <= 5 and lines == 0 and good(answers) == 50, value)


async def long_statement(served: Served) -> Observed:
    """A statement of 30 s whose client leaves after 0.7 s: is it stopped? And which time-outs bound it otherwise?"""
    settings = (await served.ask("GET", "/settings")).json()
    asking = asyncio.create_task(send_and_abort(Request("GET", served.url("/slow?seconds=30")), 0.7))
    await _until_running(served, 1)
    await asking
    left = time.monotonic()
    while served.database.running("pg_sleep") and time.monotonic() - left < 3:
        await asyncio.sleep(0.05)
    stopped = not served.database.running("pg_sleep")
    seconds = time.monotonic() - left
    served.database.server.execute(CANCEL, served.database.name)
    value = f"stopped after {seconds:.1f} s" if stopped else "still running 3 s later"
    value += "".join(f"; {name} {setting}" for name, setting in settings.items())
    return verdict(stopped and "0" not in settings.values(), value)


async def _until_running(served: Served, n: int) -> None:
    deadline = time.monotonic() + 4
    while served.database.running("pg_sleep") < n and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


CHECKS = (
    Check(
        number="B5",
        sentence="400 clients at once, five connections: 400 x 200, and a route without the database stays fast",
        ask=many_clients,
        restarts=True,
    ),
    Check(
        number="B10",
        sentence="All connections busy: 503 with Retry-After within the wait of 5 s, and 200 when one is free again",
        ask=busy_pool,
        databases=POSTGRESQL,
    ),
    Check(
        number="B12",
        sentence="160 requests aborted at random leave no connection held and no log line, and all is answered after",
        ask=clients_that_abort,
        databases=POSTGRESQL,
    ),
    Check(
        number="B19",
        sentence="A client that leaves stops its read in the server; statement and lock time-outs have defaults",
        ask=long_statement,
        databases=POSTGRESQL,
    ),
)
