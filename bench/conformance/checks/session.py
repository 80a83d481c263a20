"""A6, B1, B2, B4, B17, B18, B22: one session, its end, its connection, and who may use it."""

import asyncio
import time
from collections import Counter

from bench.conformance.checks.check import (
    POSTGRESQL,
    Check,
    Observed,
    all_are,
    counted,
    mark_of,
    not_applicable,
    verdict,
)
from bench.conformance.served import DidNotStart, Served


async def one_session(served: Served) -> Observed:
    """A route that asks for the session in five ways, a pool of one connection, 50 clients at once; a wait of 30 s."""
    await served.restart(pool=1, wait=30)
    answers = await served.burst("/forms", 50, concurrency=50, timeout=15)
    sessions = sorted({answer.json()["sessions"] for answer in answers if answer.status == 200})
    value = counted(answers) + (f"; sessions per request: {', '.join(map(str, sessions))}" if sessions else "")
    return verdict(all_are(answers, 200) and sessions == [1], value)


async def use_after_the_end(served: Served) -> Observed:
    """Five requests leave their session to somebody who uses it half a second after the answer, and keeps it."""
    await served.burst("/escapes", 5, concurrency=5, method="POST")
    await asyncio.sleep(1.3)
    held = served.database.busy()
    uses: list[str] = (await served.ask("GET", "/escaped")).json()
    collected = await _garbage_lines(served)
    found = ", ".join(f"{count} x {name}" for name, count in Counter(uses).items())
    value = f"{found}; {held} connections held" + (f"; {collected} garbage collector lines" if collected else "")
    return verdict(len(uses) == 5 and "worked" not in uses and len(set(uses)) == 1 and not held + collected, value)


async def unused_session(served: Served) -> Observed:
    """A fresh server, 100 requests to a route that declares the session and asks nothing of it."""
    served.kill()
    served.database.terminate()  # what the last server left
    await served.restart()
    before = served.database.backends()
    answers = await served.burst("/declares", 100, concurrency=8)
    opened = served.database.backends() - before
    value = f"{opened} connections opened" + ("" if all_are(answers, 200) else f"; {counted(answers)}")
    return verdict(opened == 0 and all_are(answers, 200), value)


async def gathered_statements(served: Served) -> Observed:
    """Three statements gathered on the one session, 10 times after an INSERT (warm), 10 times before all (cold)."""
    if served.subject.sessions == "sync":
        return not_applicable("a sync session is used by one thread; nothing is gathered")
    mark = mark_of(served, "b4")
    found, refused = [], 0
    for state in ("warm", "cold"):
        answers = [await served.ask("POST", f"/gathers-{state}?mark={mark}") for _ in range(10)]
        told = sum(answer.status >= 400 for answer in answers)
        found.append(f"{state}: {told} of 10 refused")
        refused += told
    errors = set((await served.ask("GET", "/gathered")).json())
    rows = served.database.rows(mark)
    value = f"{'; '.join(found)} ({', '.join(sorted(errors)) or 'no error'}); {rows} rows stored"
    return verdict(refused == 20 and len(errors) == 1 and rows == 0, value)


async def wrong_kind_of_session(served: Served) -> Observed:
    """The session of the other kind of endpoint: the async one in `def`, the sync one in `async def`."""
    try:
        await served.restart(mistake=True)
    except DidNotStart as refused:
        named = "/mistake" in str(refused)
        return verdict(named, f"refused at start, route {'' if named else 'not '}named")
    waits = []

    async def ping() -> None:
        while True:
            waits.append((await served.ask("GET", "/ping")).seconds)
            await asyncio.sleep(0.02)

    pinging = asyncio.create_task(ping())
    await asyncio.sleep(0.1)
    answer = await served.ask("GET", "/mistake")
    await asyncio.sleep(0.1)
    pinging.cancel()
    blocked = max(waits) if served.subject.sessions == "sync" else 0.0  # a `def` endpoint blocks a thread only
    value = f"{answer.status}" + (f", event loop blocked for {blocked:.1f} s" if blocked > 0.4 else "")
    if answer.status == 200 and blocked <= 0.4:
        value += ", no statement was run and nobody said so"
    return verdict(answer.status >= 500 and blocked <= 0.4 and "/mistake" in served.log(), value)


async def used_before_fork(served: Served) -> Observed:
    """The application uses its engine, then four children are forked and serve 400 requests (`gunicorn --preload`)."""
    try:
        await served.restart(children=4)
    except DidNotStart as error:
        return verdict(False, f"did not start: {str(error).strip().splitlines()[-1][:60]}")
    answers = await served.burst("/processes", 400, concurrency=16)
    users: dict[int, set[int]] = {}
    for answer in answers:
        if answer.status == 200:
            users.setdefault(answer.json()["backend"], set()).add(answer.json()["server"])
    shared = sum(len(servers) > 1 for servers in users.values())
    return verdict(all_are(answers, 200) and not shared, f"{counted(answers)}; {shared} backends shared by processes")


async def slow_without_statement(served: Served) -> Observed:
    """50 endpoints at once that wait a second before their first statement, with five connections."""
    if served.subject.sessions == "sync":
        return not_applicable("about `async def` endpoints: a `def` endpoint is bounded by its threads in any case")
    started = time.monotonic()
    answers = await served.burst("/sleeps?seconds=1", 50, concurrency=50)
    seconds = time.monotonic() - started
    return verdict(all_are(answers, 200) and seconds < 4, f"{counted(answers)} in {seconds:.1f} s")


async def _garbage_lines(served: Served) -> int:
    return served.log().count("garbage collector")


CHECKS = (
    Check(
        number="A6",
        sentence="However a route asks for the session it is one object: with a pool of one, 50 clients are answered",
        ask=one_session,
        restarts=True,
    ),
    Check(
        number="B1",
        sentence="A session that is used after its request raises one named error and leaks no connection",
        ask=use_after_the_end,
        databases=POSTGRESQL,
    ),
    Check(
        number="B2",
        sentence="A session that is declared and not used touches no connection",
        ask=unused_session,
        databases=POSTGRESQL,
        restarts=True,
    ),
    Check(
        number="B4",
        sentence="Statements gathered on one async session: one named error each time, and the request is rolled back",
        ask=gathered_statements,
        databases=POSTGRESQL,
    ),
    Check(
        number="B17",
        sentence="The async session in `def`, the sync one in `async def`: an error that names the route, no silence",
        ask=wrong_kind_of_session,
        databases=POSTGRESQL,
        restarts=True,
    ),
    Check(
        number="B18",
        sentence="An engine that was used before fork: 4 children, 400 requests, no error, no shared backend",
        ask=used_before_fork,
        databases=POSTGRESQL,
        restarts=True,
    ),
    Check(
        number="B22",
        sentence="A slow handler that has not queried yet holds nothing",
        ask=slow_without_statement,
    ),
)
