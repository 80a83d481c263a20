"""The harness itself: databases are fresh, servers are real and end, clients do what they say."""

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from support.clients import Request, abort_after, abort_burst, burst, held_open, keep_alive, statuses
from support.leftovers import nothing_left
from support.postgres import with_psycopg
from support.run import Run

TRIVIAL = "support.trivial_app:app"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_postgresql_accepts_its_password_and_no_other(postgresql, postgresql_url, host):
    right = postgresql_url.replace("127.0.0.1", host)
    with psycopg.connect(right) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(right.replace(postgresql.password, "wrong"))


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_gets_an_empty_database(url, turn):
    engine = create_engine(with_psycopg(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE first (id INTEGER)"))  # fails when the other turn's is there
    engine.dispose()


@pytest.mark.anyio
async def test_async_url_names_its_driver(async_url):
    if make_url(async_url).drivername == "postgresql+asyncpg":
        connection = await asyncpg.connect(async_url.replace("+asyncpg", ""))
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert make_url(async_url).drivername in {"sqlite", "postgresql+psycopg", "postgresql+asyncpg"}


def test_the_administrator_sees_an_idle_transaction_and_ends_it(postgresql, postgresql_url):
    with closing(psycopg.connect(postgresql_url, application_name="guest")) as connection:
        connection.execute("SELECT 42")
        (idle,) = postgresql.idle_in_transaction(postgresql_url)
        assert (idle.pid, idle.application_name, idle.query) == (
            connection.info.backend_pid,
            "guest",
            "SELECT 42",
        )
        assert postgresql.terminate_backends(postgresql_url) == 1
        assert postgresql.backends(postgresql_url) == []


def test_a_private_server_can_be_killed_stopped_and_started_again(private_postgresql):
    server = private_postgresql
    server.execute("CREATE TABLE kept (id INTEGER)")
    with psycopg.connect(server.url()) as connection:
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(server.url())
    server.start()
    assert server.execute("SELECT count(*) FROM kept") == [(0,)]
    server.restart("immediate")
    assert server.execute("SELECT count(*) FROM kept") == [(0,)]
    server.kill()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorn_serves_until_it_is_stopped(serve, loop):
    server = serve(TRIVIAL, env={"GREETING": "good morning"}, loop=loop)
    (answer,) = burst(server.url, 1)
    assert (answer.status, answer.json()) == (200, {"greeting": "good morning"})
    assert server.stop() == -signal.SIGTERM
    assert "Application shutdown complete" in server.log()
    assert statuses(burst(server.url, 1)) == {0: 1}


def test_an_application_that_does_not_start_shows_its_log(serve):
    with pytest.raises(RuntimeError, match="no_such_application"):
        serve("support.no_such_application:app")


def test_a_burst_of_400_at_once_is_answered_in_order(serve):
    server = serve(TRIVIAL)
    answers = burst(f"{server.url}/echo", 400, concurrency=400, method="POST", json=lambda i: {"number": i})
    assert [answer.json() for answer in answers] == [{"number": i} for i in range(400)]
    assert statuses(answers) == {201: 400}
    assert all(0 < answer.seconds < 30 for answer in answers)


def test_one_connection_carries_several_requests(serve):
    server = serve(TRIVIAL)
    echo = Request("POST", f"{server.url}/echo", json={"a": 1})
    assert [one.status for one in keep_alive(echo, echo)] == [201, 201]
    last = Request("GET", server.url, headers={"Connection": "close"})
    assert [one.status for one in keep_alive(last, echo)] == [200, 0]


def test_an_aborted_client_ends_the_stream(serve):
    server = serve(TRIVIAL)
    endless = Request("GET", f"{server.url}/endless")
    assert b"tick" in abort_after(endless, 0.5)
    abort_burst([(endless, 0.1)] * 20, concurrency=10)
    with held_open(endless, 5) as sockets:
        assert all(one.recv(1) for one in sockets)
    wait_for(lambda: server.log().count("the stream ended") == 26)


def test_a_thread_or_task_left_behind_fails_the_test(monkeypatch):
    # The same check watches over this test, too: it must not hear of the task that is abandoned on purpose.
    monkeypatch.setattr(logging.getLogger("asyncio"), "handlers", [])
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    with pytest.raises(AssertionError, match="forgotten"), nothing_left(patience=0.1):
        thread.start()
    release.set()
    thread.join()
    with pytest.raises(AssertionError, match="Task was destroyed"), nothing_left():
        abandon_task()


def test_the_guard_ends_what_a_killed_run_left_running():
    run = Run.create()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    run.adopt(sleeper.pid, how=signal.SIGKILL)
    run.close()  # to the guard the same as our death: its standard input ends
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not run.directory.exists()


def test_two_servers_never_get_one_port(run):
    ports = [run.free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32768


def abandon_task() -> None:
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(asyncio.sleep(60))]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not tasks.pop().done()
    loop.close()


def wait_for(condition, patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.01)
