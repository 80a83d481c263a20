"""B16: SIGTERM in the middle of work: writes are answered and durable, streams end, and no connection is left."""

import re
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from threading import Thread

import pytest
from sqlalchemy import make_url

from apps.b_serving import comes_true
from support.clients import Answer, Request, burst, held_open, statuses
from support.postgres import PostgreSQL
from support.server import Server

pytestmark = pytest.mark.load

FORMS = [
    ("sync", "postgresql+psycopg"),
    ("async", "postgresql+psycopg"),
    ("async", "postgresql+asyncpg"),
    ("sync", "sqlite"),
    ("async", "sqlite"),
]
POOL = 5
WRITES = STREAMS = 20
GRACE = 5  # seconds that uvicorn waits for what runs, before it cancels that
SLACK = 10.0  # seconds for the end itself, which is promised within one
NOTES = "SELECT text FROM notes"

# What uvicorn says of a stop, and of each stream that it had to cancel: a traceback that ends with its own words.
CANCELLED = "asyncio.exceptions.CancelledError: Task cancelled, timeout graceful shutdown exceeded"
OWN_WORDS = [
    r"INFO:     .*\n",
    rf"ERROR:    Cancel {STREAMS} running task\(s\), timeout graceful shutdown exceeded\n",
    rf"ERROR:    Exception in ASGI application\nTraceback \(most recent call last\):\n(?:  .*\n)+{CANCELLED}\n",
]


@pytest.mark.parametrize(("kind", "database"), FORMS, ids=map("-".join, FORMS))
def test_b16_sigterm_lets_writes_finish_and_leaves_nothing_behind(
    serve: Callable[..., Server], request: pytest.FixtureRequest, kind: str, database: str
) -> None:
    backend = database.partition("+")[0]
    url: str = request.getfixturevalue(f"{backend}_url").replace(f"{backend}:", f"{database}:", 1)
    env = {"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": str(POOL)}
    server = serve("apps.b_end:app", env=env, args=["--timeout-graceful-shutdown", str(GRACE)])
    answers: list[Answer] = []
    seconds = 0.05 if backend == "sqlite" else 0.2  # where one writes at a time, all of them take as long

    def write() -> None:
        path = f"{server.url}/{kind}/notes"
        answers.extend(burst(lambda i: f"{path}/m{i}?seconds={seconds}", WRITES, method="POST", concurrency=WRITES))

    with ExitStack() as clients:
        clients.enter_context(held_open(Request("GET", f"{server.url}/sse"), STREAMS))
        writers = Thread(target=write)
        writers.start()
        # One that is still in the socket's backlog is nobody's.
        assert comes_true(lambda: burst(f"{server.url}/begun", 1)[0].json() == WRITES)
        assert len(answers) < WRITES
        log, start = len(server.log()), time.monotonic()
        code = server.stop(patience=60)
        took = time.monotonic() - start
        writers.join()
    assert code == -signal.SIGTERM
    assert GRACE <= took < GRACE + SLACK  # the streams were there until uvicorn cancelled them
    assert statuses(answers) == {201: WRITES}
    assert stored(request, url) == {f"m{i}" for i in range(WRITES)}
    if backend == "postgresql":
        postgresql: PostgreSQL = request.getfixturevalue("postgresql")
        assert comes_true(lambda: not postgresql.backends(url), SLACK)
    assert not strange(server.log()[log:])


def stored(request: pytest.FixtureRequest, url: str) -> set[str]:
    """Read what is stored, over a connection of our own."""
    if not url.startswith("sqlite"):
        postgresql: PostgreSQL = request.getfixturevalue("postgresql")
        return {text for (text,) in postgresql.execute(NOTES, database=url)}
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        return {text for (text,) in connection.execute(NOTES)}


def strange(log: str) -> str:
    """Leave out what uvicorn itself has to say of a stop."""
    return re.sub("|".join(f"(?:^{words})" for words in OWN_WORDS), "", log, flags=re.MULTILINE)


def test_b16_what_is_strange_in_a_log_is_told_from_the_servers_own_words() -> None:
    own = (
        "INFO:     Shutting down\n"
        "ERROR:    Cancel 20 running task(s), timeout graceful shutdown exceeded\n"
        f'ERROR:    Exception in ASGI application\nTraceback (most recent call last):\n  File "a.py"\n{CANCELLED}\n'
        "INFO:     Finished server process [1]\n"
    )
    ours = '"GET /sse" was answered late\n'
    other = 'ERROR:    Exception in ASGI application\nTraceback (most recent call last):\n  File "a.py"\nKeyError: 1\n'
    assert strange(own) == ""
    assert strange(own + ours) == ours
    assert strange(other + own) == other
