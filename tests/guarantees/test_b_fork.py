"""B18: a `Database` that was used before the process forked, by a server that loads the application and then forks."""

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import make_url

from apps.b_serving import comes_true
from support.clients import Answer, burst
from support.postgres import PostgreSQL
from support.run import Run
from support.server import Gunicorn

pytestmark = pytest.mark.load

WORKERS = 4
APP = "apps.b_preloaded:app"


@pytest.fixture
def preload(run: Run) -> Iterator[Callable[[str], Gunicorn]]:
    """Start gunicorn with four workers that are forked from a process that has used its database."""
    servers: list[Gunicorn] = []

    def start(url: str) -> Gunicorn:
        env = {"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": "5", "PYTHONWARNINGS": "error::ResourceWarning"}
        servers.append(Gunicorn(APP, run=run, env=env, args=["--workers", str(WORKERS)]))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.mark.parametrize(
    ("database", "requests"), [("postgresql", 2000), ("postgresql+psycopg", 400), ("sqlite", 400)], ids=str
)
def test_b18_four_children_answer_every_request_and_share_no_backend(
    preload: Callable[[str], Gunicorn], database: str, requests: int, request: pytest.FixtureRequest
) -> None:
    kind, plus, driver = database.partition("+")
    url = request.getfixturevalue(f"{kind}_url").replace(f"{kind}:", f"{kind}{plus}{driver}:", 1)
    server = preload(url)
    told: list[dict] = []
    for _ in range(20):  # each time connections are opened, which go to any worker
        answers = burst(
            lambda i: f"{server.url}/{('sync', 'async')[i % 2]}", requests // 20, method="POST", concurrency=16
        )
        assert Counter(answer.status for answer in answers) == {201: requests // 20}, server.log()
        told += [answer.json() for answer in answers]
    assert len({one["worker"] for one in told}) == WORKERS
    # What listened to the sync engine before the fork listens to the connections of the child.
    assert all(one["opened"] for one in told if "opened" in one)
    if kind == "postgresql":
        look_at_backends(server, told, request.getfixturevalue("postgresql"), url)
    assert stored(url, request) == requests
    server.stop()
    assert "Error" not in server.log(), server.log()


def look_at_backends(server: Gunicorn, told: list[dict], postgresql: PostgreSQL, url: str) -> None:
    users: dict[int, set[int]] = {}
    for one in told:
        users.setdefault(one["backend"], set()).add(one["worker"])
    parent = told[0]["parent"]
    assert parent["process"] == server.pid
    assert all(len(workers) == 1 for workers in users.values()), "a backend answered two processes"
    assert parent["backend"] not in users
    assert parent["backend"] in {one.pid for one in postgresql.backends(url)}, "the parent's was closed by a child"


def stored(url: str, request: pytest.FixtureRequest) -> int:
    """Count over a connection of our own, to what the disk has."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(str(make_url(url).database))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return connection.execute("SELECT count(*) FROM notes").fetchone()[0]
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return postgresql.execute("SELECT count(*) FROM notes", database=url)[0][0]


def test_b18_a_worker_that_ends_leaves_the_connections_of_the_others_alone(
    preload: Callable[[str], Gunicorn], postgresql_url: str, postgresql: PostgreSQL
) -> None:
    server = preload(postgresql_url)

    def workers() -> set[int]:
        return {answer.json()["worker"] for answer in burst(f"{server.url}/sync", 200, method="POST", concurrency=16)}

    first = workers()
    victim = min(first)
    os.kill(victim, signal.SIGTERM)  # a worker of the server, which its master replaces
    assert comes_true(lambda: bool(workers() - first), 20.0)
    answers: list[Answer] = burst(f"{server.url}/sync", 400, method="POST", concurrency=16)
    assert Counter(answer.status for answer in answers) == {201: 400}
    parent = answers[0].json()["parent"]["backend"]
    assert parent in {one.pid for one in postgresql.backends(postgresql_url)}
