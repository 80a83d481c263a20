"""A3: COMMIT is acknowledged before the first byte of the answer, however the session is declared."""

import asyncio
import math
from collections.abc import Callable

from apps.a_app import create
from apps.a_asgi import ask, running
from apps.a_commits import DECLARATIONS
from apps.a_serving import BACKENDS, CELLS, POOL, Backend
from support.clients import Request

pytest_plugins = ["apps.a_fixtures"]

EXACT = 500


def test_a3_commit_is_acknowledged_before_the_answer_starts(backend: Backend) -> None:
    """Watched from inside: the row is read over another connection at `http.response.start`.

    The reading blocks the event loop, so nothing that would commit later can get ahead of it. Each declaration is
    asked 500 times, spread over the ten cells.
    """
    plan = {
        f"{prefix}/declared/{declaration}": EXACT // len(CELLS)
        for prefix in backend.prefixes
        for declaration in DECLARATIONS
    }
    seen = asyncio.run(rows_seen_at_start(backend, plan))
    assert seen == {path: [1] * n for path, n in plan.items()}


async def rows_seen_at_start(backend: Backend, plan: dict[str, int]) -> dict[str, list[int]]:
    app = create(backend.url, max_connections=POOL)
    seen: dict[str, list[int]] = {path: [] for path in plan}

    def look(path: str, row: str) -> Callable[[], None]:
        return lambda: seen[path].append(backend.count_exactly(row))

    async with running(app):
        for path, n in plan.items():
            for number in range(n):
                row = f"inside-{path}-{number}"
                reply = await ask(app, "POST", f"{path}?name={row}", at_start=look(path, row))
                assert (reply.status, reply.error) == (201, None), path
    return seen


def test_a3_the_row_is_there_when_the_head_of_the_answer_arrives(backend: Backend) -> None:
    """Watched from outside, through a real server: 500 requests over all declarations, cells and databases."""
    paths = [f"{prefix}/declared/{declaration}" for prefix in backend.prefixes for declaration in DECLARATIONS]
    share = math.ceil(EXACT / len(BACKENDS))
    seen = asyncio.run(rows_seen_at_head(backend, [paths[number % len(paths)] for number in range(share)]))
    assert seen == [("201", 1)] * share


async def rows_seen_at_head(backend: Backend, paths: list[str]) -> list[tuple[str, int]]:
    seen: list[tuple[str, int]] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", backend.server.port)
    for number, path in enumerate(paths):
        row = f"outside-{path}-{number}"
        writer.write(Request("POST", f"{backend.server.url}{path}?name={row}").encode())
        status = (await reader.readuntil(b" "), await reader.readuntil(b" "))[1].decode().strip()
        seen.append((status, backend.count_exactly(row)))  # before another byte is read
        await reader.readuntil(b"\r\n\r\nnull")
    writer.close()
    await writer.wait_closed()
    return seen
