"""Two small costs: importing the package, and declaring a session that is never used.

Both are CPU time, taken in turns with what they are compared to, so that a noisy machine disturbs both alike.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.params import Depends as DependsMarker
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from bench.apps.model import Base
from bench.results import circumstances
from fastapi_database import Database

IMPORTS = 15  # processes per statement
BASELINE = "import fastapi, sqlalchemy"
ORM = "import fastapi, sqlalchemy.orm, sqlalchemy.ext.asyncio"  # what an application with models pays in any case
STATEMENTS = (BASELINE, "import fastapi_database", ORM, f"{ORM}, fastapi_database")
BLOCKS, REQUESTS = 40, 250  # blocks per route, requests per block
IMPORT_TARGET = 1.15
REQUEST_TARGET = 20.0  # microseconds

Message = MutableMapping[str, Any]


def main(target: Path) -> None:
    """Measure, print, and write the same lines to a file."""
    lines = ["# Small costs", "", "Written by `python -m bench micro`; the method is in [README.md](../README.md)."]
    lines += ["", *_surroundings(), "", *_imports(), "", *asyncio.run(_requests())]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _surroundings() -> Iterator[str]:
    facts = circumstances()
    packages = facts["packages"]
    assert isinstance(packages, dict)
    versions = ", ".join(f"{name} {packages[name]}" for name in ("fastapi", "starlette", "sqlalchemy", "pydantic"))
    yield f"{facts['date']}, Python {facts['python']}, {versions}, {facts['cpus']} CPUs."


def _imports() -> Iterator[str]:
    """Compare the import times in fresh processes, in turns. The least disturbed process of each counts."""
    seconds: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(IMPORTS):
        for statement in STATEMENTS:
            seconds[statement].append(_import_seconds(statement))
    yield "| import | ms | ratio |"
    yield "|---|--:|--:|"
    for statement in STATEMENTS:
        ratio = min(seconds[statement]) / min(seconds[BASELINE])
        yield f"| `{statement}` | {min(seconds[statement]) * 1000:.0f} | {ratio:.2f} |"
    yield ""
    yield f"Target: a ratio of at most {IMPORT_TARGET}."


def _import_seconds(statement: str) -> float:
    code = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


async def _requests() -> list[str]:
    """Compare routes that declare a session with the same routes without one, called without a server."""
    lines = ["| route (CPU µs per request) | plain | empty dependency | session | session - plain |"]
    lines += ["|---|--:|--:|--:|--:|"]
    with tempfile.TemporaryDirectory() as directory:
        db = Database(f"sqlite:///{directory}/micro.db", models=Base)
        for title, apps in (("`async def`, `db.async_session`", _asynchronous(db)), ("`def`, `db.session`", _sync(db))):
            async with AsyncExitStack() as stack:
                for app in apps:
                    await stack.enter_async_context(app.router.lifespan_context(app))
                plain, empty, session, more = await _compare(apps)
            lines.append(f"| {title} | {plain:.0f} | {empty:.0f} | {session:.0f} | {more:+.1f} |")
    return [*lines, "", f"Target: at most {REQUEST_TARGET:.0f} µs more."]


def _asynchronous(db: Database) -> list[FastAPI]:
    async def plain() -> dict[str, bool]:
        return {"ok": True}

    async def session(session: Annotated[AsyncSession, Depends(db.async_session)]) -> dict[str, bool]:
        return {"ok": True}

    return [_application(db, plain), _application(db, plain, Depends(_nothing)), _application(db, session)]


def _sync(db: Database) -> list[FastAPI]:
    def plain() -> dict[str, bool]:
        return {"ok": True}

    def session(session: Annotated[Session, Depends(db.session)]) -> dict[str, bool]:
        return {"ok": True}

    return [_application(db, plain), _application(db, plain, Depends(_nothing)), _application(db, session)]


def _application(db: Database, endpoint: Callable[..., Any], *dependencies: DependsMarker) -> FastAPI:
    """Give every route an application of its own: a later route of a router costs more to find."""
    app = FastAPI()
    db.install(app)
    app.get("/", dependencies=dependencies)(endpoint)
    return app


async def _nothing() -> None:
    """Show what FastAPI charges for any dependency."""


async def _compare(apps: Sequence[FastAPI]) -> tuple[float, ...]:
    """Return the median costs of the three routes, and the median difference of the last and the first."""
    rounds = [[await _microseconds(app) for app in apps] for _ in range(1 + BLOCKS)]
    measured = rounds[1:]  # the first one warms up
    return (*map(median, zip(*measured, strict=True)), median(last - first for first, _, last in measured))


async def _microseconds(app: FastAPI) -> float:
    started = time.process_time()
    for _ in range(REQUESTS):
        await _call(app)
    return (time.process_time() - started) / REQUESTS * 1e6


async def _call(app: Callable[..., Awaitable[None]]) -> None:
    """Send one GET straight to the application and make sure that it is answered 200."""
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])
    status = 0

    async def receive() -> Message:
        for message in messages:
            return message
        return await asyncio.Future()  # the client neither sends anything more nor goes away

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(_scope(), receive, send)
    if status != 200:
        raise RuntimeError(f"it answered {status}")


def _scope() -> dict[str, object]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"bench")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
