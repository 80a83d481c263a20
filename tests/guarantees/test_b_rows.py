"""B6, B7, D7 for streams of many rows: in batches that hold nothing in between, or with a cursor of the server's."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apps.b_serving import POOL, Form, Served, Servers, comes_true
from apps.c_cases import EVERY_DRIVER
from support.clients import Request, abort_burst, held_open, statuses
from support.run import Run

pytest_plugins = ["apps.b_fixtures"]
ROWS = 60_000
HOWS = ("batches", "cursor")
GROWTH = 15_000_000  # bytes; the rows as objects are more than 30 MB


@pytest.fixture(scope="module")
def servers(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(run, tmp_path_factory.mktemp("rows"), app="apps.b_rows:app")
    yield made
    made.close()


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def rows(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    kind, database = request.param
    one = served(database, ROWS=str(ROWS))
    return Form(one, database, kind, "")


def memory(served: Served) -> int:
    """Give the bytes of memory that the server has."""
    line = next(one for one in status_of(served) if one.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def status_of(served: Served) -> list[str]:
    return Path(f"/proc/{served.server.pid}/status").read_text().splitlines()


async def read(url: str, served: Served) -> tuple[int, int]:
    """Read a whole body and forget it; give its lines, and the most memory the server had meanwhile."""
    request = Request("GET", url)
    reader, writer = await asyncio.open_connection(*request.address)
    writer.write(request.encode().replace(b"HTTP/1.1", b"HTTP/1.0"))  # which has no chunks
    await reader.readuntil(b"\r\n\r\n")
    lines = most = 0
    while chunk := await reader.read(1_000_000):
        lines += chunk.count(b"\n")
        most = max(most, memory(served))
    writer.close()
    return lines, most


@pytest.mark.parametrize("how", HOWS)
def test_d7_a_stream_of_many_rows_needs_memory_for_a_few(rows: Form, how: str) -> None:
    url = f"{rows.served.server.url}/{rows.kind}/{how}"
    asyncio.run(read(f"{url}?most=2000", rows.served))  # what is made once
    before = memory(rows.served)
    lines, most = asyncio.run(read(url, rows.served))
    assert lines == ROWS
    assert most - before < GROWTH


@pytest.mark.parametrize("how", HOWS)
def test_d7_an_abort_leaves_no_cursor_and_no_connection(rows: Form, how: str) -> None:
    if (rows.kind, how) == ("sync", "cursor"):
        pytest.skip("nobody closes a `def` generator whose client is gone: docs/reference/limits.md")
    request = Request("GET", f"{rows.served.server.url}/{rows.kind}/{how}")
    abort_burst([(request, 0.05 * i) for i in range(20)], concurrency=4)
    assert comes_true(rows.served.is_at_rest, 30.0)
    assert statuses(rows.served.burst(f"/{rows.kind}/one", 100, concurrency=8)) == {200: 100}
    assert "garbage collector" not in rows.served.server.log()


def test_b7_batches_hold_nothing_while_the_client_does_not_read(rows: Form) -> None:
    seen: list[dict[str, int]] = [{}, rows.served.watch()]

    def all_wait_for_their_client() -> bool:
        time.sleep(0.5)  # a server that sends nothing for so long has nowhere to send to
        seen.append(rows.served.watch())
        return seen[-1]["checkouts"] == seen[-2]["checkouts"] > 0

    with held_open(Request("GET", f"{rows.served.server.url}/{rows.kind}/batches"), 2 * POOL):
        assert comes_true(all_wait_for_their_client, 60.0)
        assert (seen[-1]["in_use"], seen[-1]["checked_out"], seen[-1]["waiting"]) == (0, 0, 0)
        assert statuses(rows.served.burst(f"/{rows.kind}/one", 100, concurrency=8)) == {200: 100}


def test_b7_a_cursor_holds_one_connection_for_as_long_as_its_client_reads(rows: Form) -> None:
    """On SQLite it is the writer's place as well, so that there is one at a time; who only reads goes on."""
    if rows.kind == "sync":
        pytest.skip("nobody closes a `def` generator whose client is gone: docs/reference/limits.md")
    clients = 2 if rows.on_postgresql else 1
    with held_open(Request("GET", f"{rows.served.server.url}/{rows.kind}/cursor"), clients):
        assert comes_true(lambda: rows.served.watch()["checked_out"] == clients, 60.0)
        assert statuses(rows.served.burst(f"/{rows.kind}/one", 100, concurrency=8)) == {200: 100}
        assert rows.served.watch()["checked_out"] == clients
