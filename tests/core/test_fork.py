"""What a forked child may do with a `Database` of its parent, in processes of their own: pytest's has threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import asyncio, contextlib, os, sqlite3, sys, threading
from sqlalchemy import event, text
from fastapi_database import Database, errors

url = sys.argv[1]
db = Database(url, max_connections=2, queue_timeout=20.0)

def one(session=None):
    if session is not None:
        return session.scalar(text("SELECT 1"))
    with db.begin() as own:
        return own.scalar(text("SELECT 1"))

async def one_async(number=1):
    async with db.begin() as session:
        return await session.scalar(text(f"SELECT {number}"))

def in_child(function):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print("child:", function())
        except BaseException as error:
            print("child:", type(error).__name__)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

one()
"""
IN_A_UNIT = """
with db.begin() as session:
    one(session)
    in_child(lambda: one(session))
    in_child(session.commit)
    in_child(session.rollback)
    in_child(one)
    print("parent:", one(session))
print("parent:", one())
"""
HOLDING = """
def held_at_the_fork(locks, *functions):
    taken, go = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            taken.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    for function in functions:
        in_child(function)
    go.set()
    thread.join()
"""
LOCKS = (
    HOLDING
    + """
LOCK = (type(threading.Lock()), type(threading.RLock()))

def locks_of(one, path, seen):
    if id(one) in seen:
        return {}
    seen.add(id(one))
    if isinstance(one, LOCK):
        return {path: one}
    if isinstance(one, dict):
        inside = {str(key): value for key, value in one.items()}
    elif isinstance(one, (list, tuple, set)):
        inside = {str(number): value for number, value in enumerate(one)}
    elif type(one).__module__.startswith("fastapi_database"):
        slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        inside = {name: getattr(one, name) for name in slots if hasattr(one, name)} | getattr(one, "__dict__", {})
    else:
        return {}
    return {at: lock for name in inside for at, lock in locks_of(inside[name], f"{path}.{name}", seen).items()}

asyncio.run(one_async())
locks = locks_of(db._resources, "", set())
print("locks:", *sorted(locks))
# The 2 makes a statement that is not known yet.
held_at_the_fork(locks.values(), one, lambda: asyncio.run(one_async(2)))
print("parent:", one())
"""
)
BUSY_POOL = (
    HOLDING
    + """
with db.begin() as session:
    one(session)
    connection = session.connection()
    pool = connection.engine.pool
    interruption = connection.info["fastapi_database_transaction"].interruption
    locks = [pool.counting, pool._overflow_lock, pool._pool.mutex, interruption._lock]
    held_at_the_fork(locks, session.rollback)
    interruption.begin()
    in_child(session.rollback)
    interruption.end()
    print("parent:", one(session))
"""
)
PLACES = """
a, b = db.begin(), db.begin()
one(a.__enter__()), one(b.__enter__())
in_child(lambda: db.stats().in_use)
a.__exit__(None, None, None), b.__exit__(None, None, None)
print("parent:", one())
"""
MEMORY = """
with db.begin() as session:
    session.execute(text("CREATE TABLE notes (id INTEGER)"))

def write():
    with db.begin() as session:
        session.execute(text("INSERT INTO notes VALUES (1)"))
        return session.scalar(text("SELECT count(*) FROM notes"))

in_child(write)
in_child(write)
with db.begin() as session:
    print("parent:", session.scalar(text("SELECT count(*) FROM notes")))
"""
LOOPS = """
async def main():
    await one_async()
    in_child(lambda: asyncio.new_event_loop().run_until_complete(one_async()))
    in_child(one)
    return await one_async()

print("parent:", asyncio.run(main()))
"""

TWO_TASKS = """
async def use(name, pause):
    try:
        await one_async()
    except errors.InheritedConnection:
        await asyncio.sleep(pause)
        print(name, "goes on")

async def both():
    first = asyncio.create_task(use("first", 0.4))
    await asyncio.sleep(0.1)
    await asyncio.gather(first, use("second", 0.1))

with db.begin() as session:
    one(session)
    in_child(lambda: asyncio.run(both()))
"""
SLOW_CLOSE = """
import time

class Slow(sqlite3.Connection):
    def close(self):
        time.sleep(0.3)
        super().close()

def workers():
    return sum("worker" in one.name for one in threading.enumerate())

os.register_at_fork(before=lambda: print("at the fork:", workers(), flush=True))
db = Database(url, connect_args={"factory": Slow})  # made later, so that its hook comes first

async def main():
    await one_async()
    print("before:", workers())
    in_child(one)

asyncio.run(main())
"""


def run(script: str, url: str) -> tuple[list[str], str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + script, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_b18_on_postgresql_a_child_can_not_use_a_unit_of_the_parent_and_can_open_its_own(postgresql_url: str) -> None:
    said, errors = run(IN_A_UNIT, postgresql_url)
    refused = "child: InheritedConnection"
    assert said == [refused, refused, "child: None", "child: 1", "parent: 1", "parent: 1"]
    assert errors == ""


def test_b18_on_sqlite_a_file_that_was_in_use_is_refused_in_the_child(sqlite_url: str) -> None:
    said, errors = run(IN_A_UNIT, sqlite_url)
    refused = "child: InheritedConnection"
    assert said == [refused, refused, "child: None", refused, "parent: 1", "parent: 1"]
    assert errors == ""


def test_b18_locks_that_a_thread_of_the_parent_holds_are_free_in_the_child(url: str) -> None:
    (locks, *said), _ = run(LOCKS, url)
    assert said == ["child: 1", "child: 2", "parent: 1"]
    # Whatever has a lock is found by a walk from the Database; these show that the walk gets around.
    owners = {lock.rpartition(".")[0] for lock in locks.split()[1:]}
    assert owners >= {".admission._lock", ".threads", ".leaks", ".connections", ".connections._outages"}
    assert (".dialect._shapes" in owners) is url.startswith("sqlite")


def test_b18_a_pool_that_a_thread_of_the_parent_is_at_lets_a_unit_end_in_the_child(postgresql_url: str) -> None:
    said, _ = run(BUSY_POOL, postgresql_url)
    assert said == ["child: None", "child: None", "parent: 1"]


def test_b18_places_that_the_parent_holds_are_free_in_the_child(postgresql_url: str) -> None:
    said, _ = run(PLACES, postgresql_url)
    assert said == ["child: 0", "parent: 1"]


def test_b18_memory_goes_on_as_a_copy_and_the_log_says_so(tmp_path: Path) -> None:
    said, log = run(MEMORY, "sqlite://")
    assert said == ["child: 1", "child: 1", "parent: 0"]
    assert log.count("is in memory, and this process was forked") == 2


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_b18_a_fork_inside_a_running_loop_leaves_its_connections_to_the_parent(
    postgresql_url: str, driver: str
) -> None:
    said, errors = run(LOOPS, postgresql_url.replace("postgresql:", f"postgresql+{driver}:"))
    assert said == ["child: 1", "child: 1", "parent: 1"]
    assert errors == ""


def test_b18_a_fork_inside_a_running_loop_closes_what_is_idle_of_sqlite(sqlite_url: str) -> None:
    said, errors = run(LOOPS, sqlite_url)
    assert said == ["child: 1", "child: 1", "parent: 1"]
    assert errors == ""


def test_b18_no_thread_is_in_the_middle_of_closing_a_file_when_the_process_forks(sqlite_url: str) -> None:
    """It may have a mutex of SQLite's then, which nobody gives back in the child."""
    assert run(SLOW_CLOSE, sqlite_url) == (["before: 1", "at the fork: 0", "child: 1"], "")


def test_b18_who_is_refused_in_the_child_does_not_end_who_was_refused_before(sqlite_url: str) -> None:
    assert run(TWO_TASKS, sqlite_url) == (["second goes on", "first goes on", "child: None"], "")
