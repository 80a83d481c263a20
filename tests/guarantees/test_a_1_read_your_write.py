"""A1: whoever was told 201 finds the row."""

import asyncio

import pytest

from apps.a_serving import Cell
from support.clients import Answer, Connection, statuses

pytestmark = pytest.mark.load

pytest_plugins = ["apps.a_fixtures"]

EXACT = 1000
SMALLER = 100


def test_a1_a_created_row_is_found_at_once_one_by_one(spread_cell: Cell) -> None:
    """The guarantee's own count, on four cells that have each database, kind and class of route twice."""
    create_and_read(spread_cell, EXACT, concurrency=1)


def test_a1_a_created_row_is_found_at_once_by_32_at_a_time(spread_cell: Cell) -> None:
    """The guarantee's own count, on the same four cells."""
    create_and_read(spread_cell, EXACT, concurrency=32)


def test_a1_a_created_row_is_found_at_once_in_every_form(other_cell: Cell) -> None:
    """A tenth of the count, on the six other cells."""
    create_and_read(other_cell, SMALLER, concurrency=1)
    create_and_read(other_cell, SMALLER, concurrency=32)


def create_and_read(cell: Cell, n: int, *, concurrency: int) -> None:
    """Read each row over a connection of its own as soon as its 201 has come."""
    name = cell.name()
    pairs = asyncio.run(_create_and_read(cell, name, n, concurrency))
    assert statuses(created for created, _ in pairs) == {201: n}
    assert statuses(read for _, read in pairs) == {200: n}
    assert all(created.json() == read.json() for created, read in pairs)
    assert cell.backend.count(name) == n


async def _create_and_read(cell: Cell, name: str, n: int, concurrency: int) -> list[tuple[Answer, Answer]]:
    pairs: list[tuple[Answer, Answer]] = []
    numbers = iter(range(n))

    async def client() -> None:
        writer, reader = Connection(), Connection()
        for number in numbers:  # one iterator for all clients
            created = await writer.send(cell.request("POST", "/things", {"name": f"{name}-{number}"}))
            location = created.json()["id"] if created.status == 201 else 0
            pairs.append((created, await reader.send(cell.request("GET", f"/things/{location}"))))
        writer.close()
        reader.close()

    async with asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(client())
    return pairs
