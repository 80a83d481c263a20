"""A1, A2, A3, A10, A11: what an answer says about the commit."""

import asyncio
from collections.abc import Iterator

from bench.conformance.checks.check import POSTGRESQL, Check, Observed, counted, good, mark_of, verdict
from bench.conformance.proxy import CuttingProxy
from bench.conformance.served import Connection, Request, Served


async def reads_its_write(served: Served) -> Observed:
    """POST, then at once GET over another connection: 100 times one by one, then 200 times by 32 clients at once.

    On PostgreSQL COMMIT takes 10 ms there, as with a disk or a replica that has to confirm it.
    """
    pairs, alone = 300, 100
    missing = failed = 0

    async def client(numbers: Iterator[int]) -> None:
        nonlocal missing, failed
        writer, reader = Connection(), Connection()
        for number in numbers:
            body = {"name": f"{mark_of(served, 'a1')}{number}"}
            created = await writer.send(Request("POST", served.url("/items"), body), timeout=8)
            if created.status != 201:
                failed += 1
                continue
            read = await reader.send(Request("GET", served.url(f"/items/{created.json()['id']}")), timeout=8)
            missing += read.status == 404
            failed += read.status not in {200, 404}
        writer.close()
        reader.close()

    await client(iter(range(alone)))
    together = iter(range(alone, pairs))
    await asyncio.gather(*(client(together) for _ in range(32)))
    value = f"{missing} of {pairs} read 404" + (f", {failed} failed" if failed else "")
    return verdict(missing == 0 and failed <= pairs // 2, value)  # how many are answered at all is B5's question


async def commit_failure_is_told(served: Served) -> Observed:
    """POST what fails only at COMMIT, 20 times, each followed by a request that is right on the same connection."""
    mark, times = mark_of(served, "a2"), 20
    connection, answers, kept = Connection(), [], 0
    for number in range(times):
        path = served.url(f"/fails-at-commit?mark={mark}")
        answers.append(await connection.send(Request("POST", path), timeout=8))
        same = connection.is_open
        after = await connection.send(
            Request("POST", served.url("/items"), {"name": f"after {mark}{number}"}), timeout=8
        )
        kept += same and after.status == 201
    connection.close()
    rows, told = served.database.rows(mark), good(answers)
    value = f"{counted(answers)}; {rows} rows; connection went on {kept} of {times} times"
    return verdict(told == 0 and rows == 0 and kept == times, value)


async def commit_comes_first(served: Served) -> Observed:
    """COMMIT takes a quarter of a second: at the first byte of the answer, can others see the row?"""
    times, early, failed = 8, 0, 0
    for number in range(times):
        mark = f"{mark_of(served, 'a3')}{number}"
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        try:
            writer.write(Request("POST", served.url(f"/slow-commit?mark={mark}")).encode())
            head = await asyncio.wait_for(reader.readline(), 8)
            failed += b" 201 " not in head
            early += served.database.rows(mark, "slow_commits") == 0
        finally:
            writer.transport.abort()
    value = f"{early} of {times} answered before the commit" + (f", {failed} not 201" if failed else "")
    return verdict(early == 0 and failed == 0, value)


async def lost_acknowledgement_is_told(served: Served) -> Observed:
    """The connection is cut after COMMIT reached the server and before its acknowledgement comes back."""
    mark = mark_of(served, "a10")
    async with CuttingProxy(served.database.server.port) as proxy:
        await served.restart(through=proxy.port)
        await served.ask("GET", "/library")  # the pool has a connection through the proxy
        proxy.cut_after_commit()
        answer = await served.ask("POST", "/items", {"name": mark})
        await asyncio.sleep(0.3)
        rows = served.database.rows(mark)
        said = _calls_unknown(answer.body.decode(errors="replace"))
        logged = _calls_unknown(served.log())
    value = f"{answer.status or 'none'}, row stored {rows} times, "
    value += "outcome called unknown" if said else "outcome not called unknown"
    value += "" if logged else ", not in the log"
    return verdict(answer.status >= 500 and rows == 1 and said and logged and proxy.cuts > 0, value)


def _calls_unknown(text: str) -> bool:
    return any(words in text.lower() for words in ("unknown", "not known"))


async def explicit_commit_is_durable(served: Served) -> Observed:
    """INSERT, `commit()`, INSERT, an exception: the first row stays, the second does not."""
    mark = mark_of(served, "a11")
    answer = await served.ask("POST", f"/explicit?mark={mark}")
    kept, undone = served.database.rows(f"{mark} kept"), served.database.rows(f"{mark} undone")
    return verdict(
        answer.status == 500 and (kept, undone) == (1, 0),
        f"{answer.status}; kept {kept} of 1, undone row stored {undone}",
    )


CHECKS = (
    Check(
        number="A1",
        sentence="What a POST answered 201 for can be read at once by the next request",
        ask=reads_its_write,
    ),
    Check(
        number="A2",
        sentence="A commit that fails is never answered 2xx, stores nothing, and leaves the client's connection usable",
        ask=commit_failure_is_told,
        databases=POSTGRESQL,
    ),
    Check(
        number="A3",
        sentence="COMMIT is acknowledged before the answer's first byte",
        ask=commit_comes_first,
        databases=POSTGRESQL,
    ),
    Check(
        number="A10",
        sentence="A COMMIT whose acknowledgement is lost: 5xx that calls the outcome unknown, and no retry",
        ask=lost_acknowledgement_is_told,
        databases=POSTGRESQL,
        restarts=True,
    ),
    Check(
        number="A11",
        sentence="An explicit commit is durable at once, a later error undoes only later work",
        ask=explicit_commit_is_durable,
    ),
)
