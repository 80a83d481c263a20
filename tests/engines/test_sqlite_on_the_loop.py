"""Short statements of SQLite on the event loop: what runs there, what does not, and that the loop never waits long."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from fastapi_database import Database
from fastapi_database.engines.on_loop import LONGEST_VALUE, SECONDS, TURN, OnLoop, PlainConnection, disk_reads
from fastapi_database.engines.shapes import HUNG, JUDGED_FOR, KNOWN, LATE, SLOW_FOR, Place, Shapes, judge

pytestmark = pytest.mark.anyio
PATIENCE = 30.0
ROWS = 100_000
READ = "SELECT name FROM item WHERE id = :id"
WRITE = "INSERT INTO item (name, size) VALUES (:name, 1)"
SLOW = {
    "scan": "SELECT sum(size) FROM item WHERE name <> :x",
    "sort": "SELECT name FROM item WHERE name <> :x ORDER BY name DESC LIMIT 3",
    "group": "SELECT size, count(*) FROM item WHERE name <> :x GROUP BY size ORDER BY 1",
    "recursion": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
    "SELECT max(i) FROM n WHERE :x <> 'a'",
    "product": "SELECT max(a.size + b.size) FROM item a, item b WHERE a.id < 300 AND b.id < 300 AND a.name <> :x",
    "like": "SELECT max(id) FROM item WHERE name LIKE '%' || :x || '%'",
    "count": "SELECT count(*) FROM item",
    "blob": "SELECT length(randomblob(20000000 + length(:x)))",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "items.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO item SELECT i, 'name ' || i, i % 7 FROM n",
            (ROWS,),
        )
        connection.execute("CREATE TABLE once (name TEXT UNIQUE)")
    return path


@pytest.fixture
async def db(filled: Path, tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "items.db"
    path.write_bytes(filled.read_bytes())
    db = Database(f"sqlite:///{path}", max_connections=3)
    yield db
    await db.aclose()


async def driver(session: Any) -> Any:
    return (await (await session.connection()).get_raw_connection()).driver_connection


async def known(db: Database, *statements: tuple[str, dict[str, Any]]) -> None:
    """Have each statement seen and judged."""
    for _ in range(2):
        async with db.begin() as session:
            for statement, given in statements:
                await session.execute(text(statement), given)


@contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool, float]]]:
    """Note what is tried on the loop: its text, whether it ended there, and the seconds of computing it took."""
    tried: list[tuple[str, bool, float]] = []
    run = OnLoop.run

    def note(self: OnLoop, raw: Any, cursor: Any, sql: str, *more: Any) -> Any:
        started = time.thread_time()
        rows = run(self, raw, cursor, sql, *more)
        tried.append((sql, rows is not None, time.thread_time() - started))
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(OnLoop, "run", note)
        yield tried


async def test_a_unit_that_reads_needs_no_hand_over_and_one_that_writes_needs_one(db: Database) -> None:
    await known(db, (READ, {"id": 1}), (WRITE, {"name": "Ada"}))
    async with db.begin() as session:
        connection = await driver(session)
        before = connection.on_loop.asked
        assert await session.scalar(text(READ), {"id": 7}) == "name 7"
    assert connection.on_loop.asked == before
    async with db.begin() as session:
        assert (await session.execute(text(WRITE), {"name": "Ada"})).rowcount == 1  # type: ignore[attr-defined]
        assert await session.scalar(text("SELECT name FROM item WHERE id > 100000 AND id = :id"), {"id": ROWS + 3})
    assert connection.on_loop.asked == before + 2  # the statement that was never seen, and COMMIT
    async with db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM item WHERE name = 'Ada'")) == 3


async def test_a_read_waits_for_nothing_from_its_beginning_to_its_end(db: Database) -> None:
    """Nor does its task wait for a turn of the event loop."""
    await known(db, (READ, {"id": 1}))

    async def read() -> Any:
        async with db.begin() as session:
            return await session.scalar(text(READ), {"id": 7})

    coroutine = read()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value == "name 7"


async def test_a_connection_of_sqlalchemy_executes_on_the_loop_too(db: Database) -> None:
    """It refuses drivers that await nothing, and takes an `AsyncConnection` that does not for one of those."""
    await known(db, (READ, {"id": 1}))
    for _ in range(3):
        async with db.begin() as session:
            connection = await session.connection()
            assert (await connection.execute(text(READ), {"id": 7})).scalar_one() == "name 7"
            assert (await connection.exec_driver_sql("SELECT name FROM item WHERE id = 8")).scalar_one() == "name 8"
        async with db.async_engine.connect() as plain:
            assert (await plain.execute(text(READ), {"id": 9})).scalar_one() == "name 9"


async def test_it_can_be_switched_off(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.db"
    path.write_bytes(filled.read_bytes())
    db = Database(f"sqlite:///{path}", sqlite_on_event_loop=False)
    with measured(monkeypatch) as tried:
        await known(db, (READ, {"id": 1}), (READ, {"id": 2}))
    assert tried == []
    await db.aclose()


async def test_a_read_over_its_budget_is_answered_by_the_thread_and_the_transaction_goes_on(db: Database) -> None:
    await known(db, (READ, {"id": 1}), (SLOW["scan"], {"x": ""}))
    async with db.begin() as session:
        await session.execute(text("UPDATE item SET size = 1000000 WHERE id = 1"))
        connection = await driver(session)
        before = connection.on_loop.statements
        assert await session.scalar(text(SLOW["scan"]), {"x": ""}) == sum(i % 7 for i in range(ROWS + 1)) - 1 + 1000000
        assert connection.on_loop.statements == before + 1  # it was tried
        assert await session.scalar(text(SLOW["scan"]), {"x": "y"}) > 1000000
        assert connection.on_loop.statements == before + 1  # and is not tried again for a while
    async with db.begin() as session:
        assert await session.scalar(text("SELECT size FROM item WHERE id = 1")) == 1000000


async def test_what_runs_after_a_read_is_not_interrupted(db: Database) -> None:
    """SQLite counts the steps of a statement over all its runs, so its question comes at any of them."""
    await known(db, (READ, {"id": 1}))
    async with db.begin() as session:
        connection = await driver(session)
        budget = connection.on_loop._budget
        for number in range(300):
            assert await session.scalar(text(READ), {"id": number + 1}) == f"name {number + 1}"
            budget._ends = 0.0  # as after a request that went on for long
            assert (await session.execute(text(f"SELECT {number}"))).all() == [(number,)]


async def test_a_long_value_is_fetched_in_the_thread_and_is_the_same(db: Database) -> None:
    long = "x" * (LONGEST_VALUE + 1)
    find = "SELECT name, size FROM item WHERE size = :size AND id > 100000"
    await known(db, (find, {"size": 77}))
    async with db.begin() as session:
        await session.execute(text("INSERT INTO item (name, size) VALUES (:name, 77)"), {"name": long})
        assert (await session.execute(text(find), {"size": 77})).all() == [(long, 77)]
        assert await session.scalar(text("SELECT :long"), {"long": long}) == long
        assert await session.scalar(text("SELECT :long"), {"long": long}) == long
        assert await session.scalar(text("SELECT :long"), {"long": long}) == long


async def test_a_long_value_can_be_read_after_a_unit_that_wrote_on_the_loop_read_in_the_thread_and_wrote(
    db: Database,
) -> None:
    """SQLite's limit for values on the loop must not stay when the connection goes to its thread."""
    long = "x" * (LONGEST_VALUE + 1)
    async with db.begin() as session:
        await session.execute(text("INSERT INTO item (name, size) VALUES (:name, 77)"), {"name": long})
    await known(db, (WRITE, {"name": "Ada"}))
    async with db.begin() as session:
        connection = await driver(session)
        await session.execute(text(WRITE), {"name": "Ada"})
        await session.execute(text("SELECT count(*) FROM item WHERE name = 'Ada' AND 1 = 1"))
        asked = connection.on_loop.asked
        await session.execute(text(WRITE), {"name": "Ada"})
        assert connection.on_loop.asked == asked
    for number in range(3):
        async with db.begin() as session:
            assert await session.scalar(text(f"SELECT name FROM item WHERE size = 77 AND {number} = {number}")) == long


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_large_parameter_of_any_kind_is_written_in_the_thread(db: Database, kind: Any) -> None:
    await known(db, (WRITE, {"name": "Ada"}))
    async with db.begin() as session:
        connection = await driver(session)
        await session.execute(text(WRITE), {"name": "Ada"})
        asked = connection.on_loop.asked
        await session.execute(text(WRITE), {"name": kind(b"x" * 1_000_000)})
        assert connection.on_loop.asked == asked + 1


async def test_an_error_of_a_write_is_told_and_undoes_that_statement_alone(db: Database) -> None:
    once = "INSERT INTO once (name) VALUES (:name)"
    async with db.begin() as session:
        for name in ("Ada", "Bob", "Cy"):
            await session.execute(text(once), {"name": name})
    async with db.begin() as session:
        connection = await driver(session)
        await session.execute(text(once), {"name": "Dan"})
        asked = connection.on_loop.asked
        with pytest.raises(IntegrityError, match="UNIQUE"):
            async with session.begin_nested():
                await session.execute(text(once), {"name": "Ada"})
        await session.execute(text(once), {"name": "Eve"})
        assert connection.on_loop.asked > asked
    async with db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM once")) == 5


async def test_nothing_waits_for_a_lock_on_the_loop(db: Database) -> None:
    await known(db, (WRITE, {"name": "Ada"}))
    path = db._resources.dialect.url.database
    ticks = 0
    with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        async def write() -> None:
            async with db.begin() as session:
                await session.execute(text(WRITE), {"name": "Bob"})

        writing = asyncio.create_task(write())
        while ticks < 20:  # a loop that waited for the lock would wait for its whole time-out
            ticks += 1
            await asyncio.sleep(0.001)
        assert not writing.done()
        other.execute("COMMIT")
        await writing
    async with db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM item WHERE name = 'Bob'")) == 1
        assert await session.scalar(text("PRAGMA busy_timeout")) == 5000


async def test_functions_of_the_application_stay_in_their_thread(db: Database) -> None:
    threads: list[int] = []

    def shout(value: str) -> str:
        threads.append(threading.get_ident())
        return value.upper()

    @event.listens_for(db.async_engine.sync_engine, "connect")
    def register(connection: Any, _record: object) -> None:
        connection.create_function("shout", 1, shout)
        connection.create_function("lower", 1, shout)

    async with db.begin() as session:
        await session.execute(text("CREATE VIEW loud AS SELECT id, shout(name) AS name FROM item"))
    for _ in range(5):
        async with db.begin() as session:
            assert await session.scalar(text("SELECT name FROM loud WHERE id = :id"), {"id": 1}) == "NAME 1"
            assert await session.scalar(text("SELECT lower(name) FROM item WHERE id = :id"), {"id": 1}) == "NAME 1"
    assert len(threads) == 10
    assert threading.get_ident() not in threads


async def test_a_write_that_a_trigger_made_long_leaves_the_loop_at_once(db: Database) -> None:
    await known(db, (WRITE, {"name": "Ada"}))
    async with db.begin() as session:
        await session.execute(
            text("CREATE TRIGGER long AFTER INSERT ON item BEGIN UPDATE item SET size = size + 1 WHERE id < 100; END")
        )
    async with db.begin() as session:
        connection = await driver(session)
        before = connection.on_loop.asked
        await session.execute(text(WRITE), {"name": "Ada"})
        assert connection.on_loop.asked == before + 1
    async with db.begin() as session:
        assert await session.scalar(text("SELECT size FROM item WHERE id = 1")) == 2


async def test_a_write_that_one_connection_has_a_trigger_for_stays_in_its_thread(db: Database) -> None:
    await known(db, (WRITE, {"name": "Ada"}))
    trigger = "CREATE TEMP TRIGGER own AFTER INSERT ON item BEGIN UPDATE item SET size = 1 WHERE id < 100; END"
    async with db.async_engine.connect() as other:
        await other.execute(text("SELECT 1"))  # so that the connection the write was judged on is in use
        async with db.begin() as session:
            await session.execute(text(trigger))
        async with db.begin() as session:
            connection = await driver(session)
            before = connection.on_loop.asked
            await session.execute(text(WRITE), {"name": "Ada"})
            assert connection.on_loop.asked == before + 1


async def test_many_statements_of_one_task_let_the_others_have_their_turn(db: Database) -> None:
    await known(db, (READ, {"id": 1}))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async with db.begin() as session:
        on_loop = (await driver(session)).on_loop
        before, turns = on_loop.statements, 0
        while on_loop.statements < before + 320:  # on a busy machine one seems slow at times, and stays away
            await session.execute(text(READ), {"id": 5})
    task.cancel()
    assert turns >= 320 / TURN[0]


async def test_no_statement_stops_the_loop_for_long(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long reads of every kind, short ones, and writers of this and another process, all at once."""
    path = db._resources.dialect.url.database
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
        "for _ in range(40):\n"
        '    connection.execute("UPDATE item SET size = size WHERE id = 1")\n'
    )
    expected: dict[str, Any] = {}
    with closing(sqlite3.connect(str(path))) as plain:
        for name, statement in SLOW.items():
            expected[name] = plain.execute(statement, {"x": "zzz"}).fetchall()
    await known(db, (READ, {"id": 1}), *[(statement, {"x": "zzz"}) for statement in SLOW.values()])

    async def read_slowly(name: str) -> None:
        for _ in range(2):
            async with db.begin() as session:
                assert (await session.execute(text(SLOW[name]), {"x": "zzz"})).all() == expected[name]

    async def read(number: int) -> None:
        for _ in range(20):
            async with db.begin() as session:
                assert await session.scalar(text(READ), {"id": number}) == f"name {number}"

    async def write() -> None:
        for _ in range(10):
            async with db.begin() as session:
                await session.execute(text("INSERT INTO once (name) VALUES (:n)"), {"n": f"{time.perf_counter_ns()}"})

    other = subprocess.Popen([sys.executable, "-c", program, str(path)])
    with measured(monkeypatch) as tried:
        await asyncio.gather(*map(read_slowly, SLOW), *map(read, range(1, 5)), write())
    assert await asyncio.to_thread(other.wait, PATIENCE) == 0
    ended = [seconds for _, ended, seconds in tried if ended]
    longest = max(seconds for _, _, seconds in tried)
    print(f"{len(tried)} tried on the loop, {len(ended)} ended there, the longest took {longest * 1e3:.2f} ms of CPU")
    assert len(ended) > 100
    assert longest < 10 * SECONDS
    assert {sql for sql, ended, _ in tried if ended}.isdisjoint({SLOW[name] for name in ("like", "count", "blob")})


PROGRAMS = [
    ("SELECT * FROM u WHERE id = ?", 1, Place.READ),
    ("SELECT g, count(*), sum(n) FROM u GROUP BY g HAVING count(*) > 1 ORDER BY 2", 0, Place.READ),
    (
        "SELECT u.id, p.a FROM u LEFT JOIN p ON p.id = u.n WHERE u.name IN (?, ?) ORDER BY u.g DESC LIMIT ?",
        3,
        Place.READ,
    ),
    ("SELECT row_number() OVER (ORDER BY name) FROM u", 0, Place.READ),
    ("SELECT count(*) FROM u", 0, Place.THREAD),
    ("SELECT group_concat(name) FROM u", 0, Place.THREAD),
    ("SELECT id FROM u WHERE name LIKE ?", 1, Place.THREAD),
    ("SELECT json_extract(name, '$.a') FROM u", 0, Place.THREAD),
    ("SELECT zeroblob(100000000)", 0, Place.THREAD),
    ("SELECT key FROM json_each(?)", 1, Place.THREAD),
    ("SELECT * FROM f WHERE f MATCH ?", 1, Place.THREAD),
    ("SELECT name FROM loud", 0, Place.THREAD),
    ("SELECT id FROM u ORDER BY name COLLATE mine", 0, Place.THREAD),
    ("INSERT INTO u (name, email, n) VALUES (?, ?, ?)", 3, Place.WRITE),
    ("UPDATE u SET name = ? WHERE id = ?", 2, Place.WRITE),
    ("DELETE FROM u WHERE id = ?", 1, Place.WRITE),
    ("UPDATE u SET n = 1 WHERE g = ?", 1, Place.THREAD),
    ("DELETE FROM p WHERE id = ?", 1, Place.THREAD),  # looks for the rows that refer to it
    ("INSERT INTO u (name) SELECT name FROM u", 0, Place.THREAD),
    ("INSERT INTO t (x) VALUES (?)", 1, Place.THREAD),  # has a trigger
    ("INSERT INTO temp.own (x) VALUES (?)", 1, Place.THREAD),
]


@pytest.mark.parametrize(("statement", "parameters", "place"), PROGRAMS)
def test_a_statement_is_judged_by_the_program_that_sqlite_makes_of_it(
    statement: str, parameters: int, place: Place
) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
        connection.executescript(
            """
            PRAGMA foreign_keys=on;
            CREATE TABLE p (id INTEGER PRIMARY KEY, a REAL);
            CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, n INT REFERENCES p (id),
                g TEXT COLLATE NOCASE);
            CREATE TABLE t (x INT);
            CREATE TRIGGER after_t AFTER INSERT ON t BEGIN UPDATE u SET n = 1; END;
            CREATE VIRTUAL TABLE f USING fts5(body);
            CREATE VIEW loud AS SELECT id, hex(name) AS name FROM u;
            CREATE TEMP TABLE own (x INT);
            """
        )
        assert judge(connection.execute(f"EXPLAIN {statement}", ("1",) * parameters)) is place


def test_shapes_are_judged_at_their_second_use_and_forgotten() -> None:
    now = 0.0
    shapes = Shapes(clock=lambda: now)
    assert shapes.find("SELECT 1") is None
    shape = shapes.find("SELECT 1")
    assert shape is not None
    assert shapes.wants_judging(shape)
    shapes.judged(shape, Place.READ)
    assert shapes.may_run(shape)
    shapes.exceeded(shape)
    assert not shapes.may_run(shape)
    now = SLOW_FOR
    assert shapes.may_run(shape)
    now = JUDGED_FOR
    assert not shapes.may_run(shape)
    assert shapes.wants_judging(shape)
    for number in range(2 * KNOWN):
        shapes.find(f"SELECT {number}")
    assert len(shapes._shapes) == KNOWN
    for unknown in ("PRAGMA user_version", "VACUUM", "CREATE TABLE x (y)", "", "SELECT '" + "x" * 10_000 + "'"):
        assert shapes.find(unknown) is shapes.find(unknown) is None


def test_a_statement_that_is_late_twice_in_succession_stays_away_the_longer_the_later_it_was() -> None:
    now = 0.0
    shapes = Shapes(clock=lambda: now)
    shapes.find("SELECT 1")
    shape = shapes.find("SELECT 1")
    assert shape is not None
    shapes.judged(shape, Place.READ)
    shapes.took(shape, 10 * LATE, disk=True)
    assert shapes.may_run(shape)
    shapes.took(shape, LATE, disk=True)
    shapes.took(shape, 10 * LATE, disk=True)
    assert shapes.may_run(shape)
    shapes.took(shape, 0.1, disk=True)
    assert not shapes.may_run(shape)
    now = 1.9
    assert not shapes.may_run(shape)
    now = 2.1
    assert shapes.may_run(shape)


@pytest.mark.parametrize(("late", "blocks", "stays"), [(LATE, 0, True), (LATE, 8, False), (HUNG, 0, False)])
def test_a_statement_that_waited_for_a_processor_is_not_sent_away(late: float, blocks: int, *, stays: bool) -> None:
    """Only a disk is a reason, or a wait so long that whatever it was may be one."""
    now, read = 0.0, 100
    shapes = Shapes(clock=lambda: now)
    on_loop = OnLoop(shapes, clock=lambda: now, disk=lambda: read)
    sql = "SELECT slowly()"
    shapes.find(sql)
    shape = shapes.find(sql)
    assert shape is not None
    shapes.judged(shape, Place.READ)

    def slowly() -> int:
        nonlocal now, read
        now += 1.1 * late
        read += blocks
        return 1

    with closing(sqlite3.connect(":memory:", factory=PlainConnection)) as raw:
        raw.create_function("slowly", 0, slowly)
        for _ in range(2):
            assert on_loop.run(raw, raw.cursor(), sql, (), shape) == [(1,)]
    assert shapes.may_run(shape) is stays


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts for each thread")
def test_what_is_read_from_a_disk_is_counted(tmp_path: Path) -> None:
    def told_by_the_system() -> int:
        return int(Path("/proc/thread-self/io").read_text().partition("read_bytes: ")[2].split()[0])

    file = tmp_path / "cold"
    file.write_bytes(b"x" * 1_000_000)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        told, counted = told_by_the_system(), disk_reads()
        opened.read()
    # A file system in memory reads nothing.
    assert (disk_reads() > counted) is (told_by_the_system() > told)
