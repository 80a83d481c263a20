"""B3, B6, B7, B8: what goes on after the answer began."""

import asyncio

from bench.conformance.checks.check import POSTGRESQL, Check, Observed, counted, good, mark_of, new_item, verdict
from bench.conformance.served import Served
from bench.conformance.sockets import WebSocket, held_open, unread

STREAMS = 100
SOCKETS = 60


async def background_tasks(served: Served) -> Observed:
    """Five requests whose background tasks sleep 0.8 s, then store a row over a session of their own."""
    mark, times = mark_of(served, "b3"), 5
    answers = await served.burst(f"/background?mark={mark}", times, concurrency=times, method="POST")
    await asyncio.sleep(0.2)  # the answers are here, the tasks sleep
    held = served.database.busy()
    await asyncio.sleep(2)
    by_task = served.database.rows(f"{mark} by the task")
    own = served.database.rows(mark) - by_task
    value = f"{held} connections held during {times} tasks; {by_task} of {times} tasks stored their row"
    return verdict(held == 0 and by_task == own == times and good(answers) == times, value)


async def open_streams(served: Served) -> Observed:
    """100 streams held open (StreamingResponse and SSE, one query each), then 20 ordinary requests at once."""
    item = await new_item(served, "b6")
    paths = ["/stream", "/sse"] * (STREAMS // 2)
    async with held_open(served, paths, within=6) as opened:
        held = served.database.busy()
        answers = await served.burst(f"/items/{item}", 20, concurrency=20)
    value = f"{opened} of {STREAMS} opened, {held} connections held; ordinary requests: {counted(answers)}"
    return verdict(opened == STREAMS and held == 0 and good(answers) == 20, value)


async def unread_bodies(served: Served) -> Observed:
    """20 clients ask for 50 MB after one query and read nothing; then 20 ordinary requests at once."""
    item = await new_item(served, "b7")
    async with unread(served, "/big", 20):
        await asyncio.sleep(2)
        held = served.database.busy()
        answers = await served.burst(f"/items/{item}", 20, concurrency=20)
    value = f"{held} connections held; ordinary requests: {counted(answers)}"
    return verdict(held == 0 and good(answers) == 20, value)


async def many_sockets(served: Served) -> Observed:
    """60 WebSockets, each message a query; then one message whose handler fails, and one that stores."""
    mark = mark_of(served, "b8")

    async def connect() -> WebSocket | None:
        try:
            async with asyncio.timeout(6):
                socket = await WebSocket.open(served, "/socket")
                return socket if await socket.ask("read") == "read" else None
        except (OSError, EOFError, TimeoutError):
            return None

    sockets = await asyncio.gather(*(connect() for _ in range(SOCKETS)))
    answered = [socket for socket in sockets if socket is not None]
    rows = None
    try:
        if answered:
            async with asyncio.timeout(6):
                for message in (f"{mark}before", f"fails-{mark}", f"{mark}after"):
                    await answered[0].ask(message)
        rows = served.database.rows(mark), served.database.rows(f"fails-{mark}")
    except (OSError, EOFError, TimeoutError):
        pass
    for socket in answered:
        socket.close()
    value = f"{len(answered)} of {SOCKETS} sockets answered"
    if answered:
        value += "; the next messages were not answered" if rows is None else f"; rows {rows[0]} of 2, {rows[1]} of 0"
    return verdict(len(answered) == SOCKETS and rows == (2, 0), value)


CHECKS = (
    Check(
        number="B3",
        sentence="A background task starts when the request's connection is back, and can store by itself",
        ask=background_tasks,
        databases=POSTGRESQL,
    ),
    Check(
        number="B6",
        sentence="Streams held open hold no connection: ordinary requests are answered meanwhile",
        ask=open_streams,
        databases=POSTGRESQL,
    ),
    Check(
        number="B7",
        sentence="Clients that do not read their answers hold no connection",
        ask=unread_bodies,
        databases=POSTGRESQL,
    ),
    Check(
        number="B8",
        sentence="60 WebSockets, a query per message: five connections do; a message that fails undoes itself only",
        ask=many_sockets,
        databases=POSTGRESQL,
    ),
)
