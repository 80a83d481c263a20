"""Time-outs that the database keeps: whose value wins on PostgreSQL, and what SQLite's watchdog counts."""

import sqlite3

import pytest
from sqlalchemy import text

from apps.c_cases import EVERY_DRIVER, Kind, url_for, work
from fastapi_database import Database
from fastapi_database.engines.watchdog import Watchdog

ON_POSTGRESQL = [case for case in EVERY_DRIVER if case[1] != "sqlite"]


def shown(db: Database, kind: Kind) -> tuple[str, ...]:
    query = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
    found = work(db, kind, lambda session: tuple(session.execute(text(query)).one()))
    db.close()
    return found


@pytest.mark.parametrize(("kind", "driver"), ON_POSTGRESQL)
def test_what_the_application_says_of_its_connections_wins(
    request: pytest.FixtureRequest, kind: Kind, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_for(request, driver)
    assert shown(Database(url), kind) == ("30s", "5s")
    assert shown(Database(url, statement_timeout=0.25, lock_timeout=0), kind) == ("250ms", "0")
    assert shown(Database(url + "?options=-c%20statement_timeout%3D7000"), kind) == ("7s", "5s")
    with_arguments = {"connect_args": {"options": "-c lock_timeout=1000"}}
    assert shown(Database(url, **with_arguments), kind) == ("30s", "1s")
    if driver.endswith("asyncpg"):
        by_name = {"connect_args": {"server_settings": {"statement_timeout": "8000"}}}
        assert shown(Database(url, **by_name), kind) == ("8s", "5s")
    else:  # libpq's variable
        monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=9000")
        assert shown(Database(url), kind) == ("9s", "5s")


FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_on_sqlite_a_statement_that_writes_is_ended_too_and_stores_nothing(sqlite_url: str, kind: Kind) -> None:
    db = Database(sqlite_url, statement_timeout=0.1)
    work(db, kind, lambda session: session.execute(text("CREATE TABLE t (x)")))
    with pytest.raises(Exception, match="interrupted") as caught:
        work(db, kind, lambda session: session.execute(text(f"INSERT INTO t {FOREVER}")))
    assert caught.value.orig.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT  # type: ignore[attr-defined]
    assert work(db, kind, lambda session: session.scalar(text("SELECT count(*) FROM t"))) == 0
    db.close()


def test_the_watchdog_counts_what_one_statement_computes_and_not_what_the_application_does_meanwhile() -> None:
    now = 0.0
    watchdog = Watchdog(1.0, clock=lambda: now)

    def asked_after(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return watchdog.overdue()

    assert [asked_after(0.4) for _ in range(4)] == [False, False, False, True]
    watchdog.new = True  # the next statement has its whole time
    assert [asked_after(0.4) for _ in range(4)] == [False, False, False, True]
    watchdog.new = True
    assert not any(asked_after(30) for _ in range(9))  # rows of a stream, sent slowly
    watchdog.limit, watchdog.new = 0, True
    assert not any(asked_after(0.5) for _ in range(99))
