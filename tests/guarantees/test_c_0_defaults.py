"""C0: every default that we set is in docs/reference/engine-defaults.md, with its reason and its switch.

What we set is found by comparing what SQLAlchemy and the drivers are called with, and what a connection says of itself,
with what they are without us; nothing is listed here twice.
"""

import asyncio
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from apps.c_cases import EVERY_DRIVER, Kind, url_for, work
from fastapi_database import Database
from fastapi_database.config import settings
from fastapi_database.core import connections
from fastapi_database.engines import DIALECTS, postgresql, sqlite

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "engine-defaults.md"
CELLS = 3
# Options of create_engine that follow from a setting of ours, under whose name they are listed.
PART_OF = {"pool_size": "max_connections", "max_overflow": "max_connections", "pool_timeout": "queue_timeout"}


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    """The rows of every table of the page: default, reason, switch."""
    found: list[list[str]] = []
    for block in PAGE.read_text().split("\n\n"):
        head, *lines = [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in block.splitlines()
            if line.startswith("|")
        ] or [[""]]
        if head == ["default", "reason", "switch"]:
            found.extend(lines[1:])
    return found


def test_c0_every_default_has_a_reason_and_a_switch(rows: list[list[str]]) -> None:
    assert len(rows) > 15
    for row in rows:
        assert len(row) == CELLS, row
        default, reason, switch = row
        assert len(default) > 5, row
        assert len(reason) > 7, f"no reason for {default}"
        assert switch, f"no switch for {default}"


def test_c0_every_setting_of_database_is_listed(rows: list[list[str]]) -> None:
    built = settings("sqlite://", given={}, options={})
    for name in ("max_connections", "queue_timeout", "max_waiting", "hold_warning", "transaction_pooler"):
        assert listed(rows, f"{name}={getattr(built, name)}"), name


@pytest.mark.parametrize(("kind", "driver"), EVERY_DRIVER)
def test_c0_every_option_we_give_to_create_engine_is_listed(
    rows: list[list[str]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    driver: str,
) -> None:
    given: dict[str, Any] = {}

    def spy(function: Any) -> Any:
        def create(url: Any, **options: Any) -> Any:
            given.update(options)
            return function(url, **options)

        return create

    monkeypatch.setattr(connections, "create_engine", spy(sqlalchemy.create_engine))
    monkeypatch.setattr(sqlalchemy.ext.asyncio, "create_async_engine", spy(create_async_engine))
    db = Database(url_for(request, driver))
    work(db, kind, lambda session: session.execute(text("SELECT 1")))
    db.close()
    assert given.keys() >= {"hide_parameters", "pool_size"}
    for name in given:
        assert listed(rows, PART_OF.get(name, name)), f"create_engine({name}=…) is not in {PAGE.name}"


@pytest.mark.parametrize(("kind", "driver"), EVERY_DRIVER)
def test_c0_every_argument_we_give_to_the_driver_is_listed(
    rows: list[list[str]], request: pytest.FixtureRequest, kind: Kind, driver: str
) -> None:
    url = make_url(url_for(request, driver))
    dialect = DIALECTS[url.get_backend_name()](url)
    chosen = dialect.sync_url if kind == "sync" else dialect.async_url
    arguments = dialect.connect_arguments(chosen.get_driver_name(), {})
    for name, value in arguments.items():
        assert listed(rows, name), f"connect({name}=…) is not in {PAGE.name}"
        if isinstance(value, int | float | None):
            shown = {f"{name}={value}", f"{name}={float(value)}" if isinstance(value, int) else name}
            assert any(listed(rows, form) for form in shown), f"{name}={value}"


def test_c0_every_option_we_give_to_the_session_is_listed(rows: list[list[str]]) -> None:
    plain, ours = Session(), work(Database("sqlite://"), "sync", lambda session: session)
    names = ("autoflush", "expire_on_commit", "enable_baked_queries", "join_transaction_mode", "info", "twophase")
    different = [name for name in names if getattr(plain, name) != getattr(ours, name)]
    assert "expire_on_commit" in different
    for name in different:
        assert listed(rows, f"{name}={getattr(ours, name)}"), name


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c0_every_pragma_that_differs_from_a_plain_connection_is_listed(
    rows: list[list[str]], sqlite_url: str, tmp_path: Path, kind: Kind
) -> None:
    db = Database(sqlite_url)
    ours = work(db, kind, lambda session: dict(pragmas(session.connection().connection)))
    db.close()
    with closing(sqlite3.connect(tmp_path / "plain.sqlite")) as connection:
        plain = dict(pragmas(connection))
    different = {name for name, value in ours.items() if plain[name] != value}
    assert different >= {"foreign_keys", "journal_mode"}
    assert different == set(sqlite.PRAGMAS)
    for name in different:
        assert listed(rows, f"PRAGMA {name}={sqlite.PRAGMAS[name]}"), name


@pytest.mark.parametrize(("kind", "driver"), [case for case in EVERY_DRIVER if case[1] != "sqlite"])
def test_c0_no_setting_of_a_postgresql_connection_differs_unlisted(
    rows: list[list[str]], request: pytest.FixtureRequest, kind: Kind, driver: str
) -> None:
    """Compared with a connection of the bare driver: it has settings of its own, which are not ours."""
    query = "SELECT name, setting FROM pg_settings"
    url = url_for(request, driver)
    db = Database(url)
    ours = work(db, kind, lambda session: dict(map(tuple, session.execute(text(query)))))
    db.close()
    bare = url.replace(f"{driver}:", "postgresql:")

    async def by_asyncpg() -> dict[str, str]:
        import asyncpg

        connection = await asyncpg.connect(bare)
        found = dict(await connection.fetch(query))
        await connection.close()
        return found

    if driver.endswith("asyncpg"):
        plain = asyncio.run(by_asyncpg())
    else:
        with psycopg.connect(bare) as connection:
            plain = dict(connection.execute(query).fetchall())
    changed = {name for name, value in ours.items() if plain[name] != value}
    # SQLAlchemy's own dialect for asyncpg switches off the server's compilation of queries about types.
    for name in changed - {"jit"}:
        assert listed(rows, name), f"{name}={ours[name]} is not in {PAGE.name}"


def test_c0_every_number_in_our_engines_is_listed(rows: list[list[str]]) -> None:
    """The constants of these modules are defaults: each has its value on the page."""
    seconds: Mapping[str, float] = {
        f"{module.__name__}.{name}": value
        for module in (sqlite, postgresql, connections)
        for name, value in vars(module).items()
        if name.isupper()
        and not name.startswith("_")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }
    assert {name.rpartition(".")[2] for name in seconds} >= {"BUSY_TIMEOUT", "CONNECT_TIMEOUT", "PING_AFTER"}
    text_of_page = " ".join(" ".join(row) for row in rows)
    for name, value in seconds.items():
        assert re.search(rf"\b{value:g}(\.0)? ?s(econds)?\b|={value:g}(\.0)?\b", text_of_page), name


def listed(rows: list[list[str]], name: str) -> bool:
    """Tell whether the first column of a row names it, in code: alone, or with its value."""
    found = (code for row in rows for code in re.findall(r"`([^`]*)`", row[0]))
    return any(code == name or re.match(rf"{re.escape(name)}(=|$)", code) for code in found)


def pragmas(connection: Any) -> Iterator[tuple[str, object]]:
    """Read every setting; what describes the file or does something is none."""
    not_settings = re.compile(
        r".*(_list|_info|_xinfo|_check|_count|_version|_id|_size_hint)$|.*(checkpoint|vacuum|optimize|wal_).*"
    )
    cursor = connection.cursor()
    cursor.execute("PRAGMA pragma_list")
    for (name,) in cursor.fetchall():
        if not not_settings.match(name):
            cursor.execute(f"PRAGMA {name}")
            if row := cursor.fetchone():
                yield name, row[0]
