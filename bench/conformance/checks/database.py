"""B13, B14, B15, B16: a database that dies and comes back, health, and the end of the server."""

import asyncio
import time

from bench.conformance.checks.check import (
    POSTGRESQL,
    Check,
    Observed,
    all_are,
    counted,
    good,
    mark_of,
    new_item,
    not_applicable,
    verdict,
)
from bench.conformance.serve import GRACE
from bench.conformance.served import Served
from bench.conformance.sockets import held_open

DOWN = 3.0  # seconds that the database is away


async def killed_backends(served: Served) -> Observed:
    """All backends killed while idle, then 100 requests; killed three times under load, then 50 requests."""
    item = await new_item(served, "b13")
    path = f"/items/{item}"
    await served.burst(path, 40, concurrency=5)
    served.database.terminate()
    idle = await served.burst(path, 100, concurrency=1)
    load = asyncio.create_task(served.burst("/slow?seconds=0.02", 300, concurrency=8))
    for _ in range(3):
        await asyncio.sleep(0.25)
        await asyncio.to_thread(served.database.terminate)
    hit = [answer for answer in await load if answer.status != 200]
    after = await served.burst(path, 50, concurrency=4)
    value = f"idle: {counted(idle)}; under load hit: {counted(hit) or 'none'}; after: {counted(after)}"
    return verdict(all_are([*idle, *after], 200) and all_are(hit, 503), value)


async def database_away(served: Served) -> Observed:
    """PostgreSQL is stopped for three seconds under a trickle of requests, and started again."""
    item = await new_item(served, "b14")
    path = f"/items/{item}"
    await served.burst(path, 10, concurrency=5)
    server = served.database.server
    await asyncio.to_thread(server.stop, "immediate")
    try:
        stopped = time.monotonic()
        asking = []
        while time.monotonic() - stopped < DOWN:
            asking.append(asyncio.create_task(served.ask("GET", path, timeout=6)))
            await asyncio.sleep(0.2)
        during = await asyncio.gather(*asking)
    finally:
        await asyncio.to_thread(server.start)
    back = time.monotonic()
    first = None
    while time.monotonic() - back < 8 and first is None:
        if (await served.ask("GET", path, timeout=2)).status == 200:
            first = time.monotonic() - back
    slowest = max(answer.seconds for answer in during)
    value = f"away: {counted(during)}, slowest {slowest:.1f} s; first 200 "
    value += "not within 8 s" if first is None else f"{first:.1f} s after its return"
    return verdict(all_are(during, 503) and slowest <= 3 and first is not None and first <= 3, value)


async def health(served: Served) -> Observed:
    """`/live` and `/ready`: with a free pool, with a busy one, and with the database away."""
    if (await served.ask("GET", "/live")).status == 404:
        return not_applicable("the library has no health endpoints; one written by hand says nothing about it")
    free = await served.ask("GET", "/ready")
    holders = [asyncio.create_task(served.ask("GET", "/slow?seconds=2", timeout=6)) for _ in range(5)]
    await asyncio.sleep(0.5)
    busy = await served.ask("GET", "/ready")
    await asyncio.gather(*holders)
    server = served.database.server
    await asyncio.to_thread(server.stop, "immediate")
    try:
        await asyncio.sleep(1)
        live, away = await served.ask("GET", "/live"), await served.ask("GET", "/ready")
    finally:
        await asyncio.to_thread(server.start)
    value = (
        f"ready: free {free.status}, busy {busy.status}, away {away.status} in {away.seconds:.1f} s; live {live.status}"
    )
    holds = (free.status, busy.status, away.status, live.status) == (200, 200, 503, 200)
    return verdict(holds and away.seconds < 1.5 and live.seconds < 0.5, value)


async def sigterm(served: Served) -> Observed:
    """SIGTERM with 10 writes in flight and 5 open SSE streams; uvicorn's graceful time-out is 5 s."""
    mark = mark_of(served, "b16")
    await served.restart()
    async with held_open(served, ["/sse"] * 5, within=3) as opened:
        writes = asyncio.create_task(
            served.burst(f"/slow-write?mark={mark}&seconds=0.4", 10, concurrency=10, method="POST", timeout=GRACE + 4)
        )
        await asyncio.sleep(0.3)
        served.terminate()
        answers = await writes
        seconds = await served.ended(within=GRACE + 4)
    await asyncio.sleep(1)
    rows, left = served.database.rows(mark), served.database.backends()
    value = f"writes: {counted(answers)}, {rows} rows; {opened} streams; "
    value += "not ended" if seconds is None else "ended"
    value += f", {left} backends left"
    return verdict(good(answers) == rows == 10 and opened == 5 and seconds is not None and left == 0, value)


CHECKS = (
    Check(
        number="B13",
        sentence="Backends killed while idle cost no request; killed under load only those hit, which are answered 503",
        ask=killed_backends,
        databases=POSTGRESQL,
    ),
    Check(
        number="B14",
        sentence="The database is away for 3 s: every request is answered 503 at once, and 200 at once when it is back",
        ask=database_away,
        databases=POSTGRESQL,
    ),
    Check(
        number="B15",
        sentence="Health: ready while the pool is busy, not ready while the database is away, live all the time",
        ask=health,
        databases=POSTGRESQL,
    ),
    Check(
        number="B16",
        sentence="SIGTERM: the writes in flight are answered and durable, streams end, no backend is left",
        ask=sigterm,
        databases=POSTGRESQL,
        restarts=True,
    ),
)
