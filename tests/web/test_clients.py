"""Clients that go away, and those that only seem to."""

import asyncio
import time
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.notes import Base, Note
from fastapi_database import Database
from fastapi_database.errors import DeadlineExceeded
from fastapi_database.web.clients import WATCH_AFTER, Client

END_OF_BODY = {"type": "http.request", "body": b"", "more_body": False}
LEFT = {"type": "http.disconnect"}


async def test_who_says_the_end_of_the_body_again_and_again_is_not_asked_for_ever(anyio_backend: str) -> None:
    """A middleware that has read the body often gives the application a `receive` that does nothing else."""
    asked = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return END_OF_BODY

    client = Client(receive, on_leaving=lambda: pytest.fail("nobody has left"))
    client.watch()
    await asyncio.sleep(WATCH_AFTER + 0.1)
    assert asked <= 3
    client.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_client_that_reads_though_it_seemed_gone_is_not_told_that_its_unit_is_stored(url: str, kind: str) -> None:
    db = Database(url, models=Base)
    db.create_all()
    app = FastAPI()
    db.install(app)
    gone = asyncio.Event()

    @app.get("/sync")
    def write(session: Annotated[Session, Depends(db.session)]) -> None:
        session.add(Note(text="x"))
        session.flush()
        while not session.unit._abandoned:  # type: ignore[attr-defined]
            time.sleep(0.01)

    @app.get("/async")
    async def write_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None:
        session.add(Note(text="x"))
        await session.flush()
        while not session.sync_session.unit._abandoned:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

    messages = [END_OF_BODY, LEFT]
    answered: list[int] = []

    async def receive() -> Any:
        if not messages:
            await gone.wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    async def request() -> None:
        scope = {"type": "http", "method": "GET", "path": f"/{kind}", "query_string": b"", "headers": []}
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(request())
    assert answered == [500]
    with db.begin() as session:
        assert session.scalars(select(Note)).all() == []
    db.close()


def test_no_commit_of_the_applications_own_stores_anything_after_the_deadline(url: str) -> None:
    db = Database(url, models=Base)
    db.create_all()

    def commit_late() -> None:
        with db.begin(timeout=0.5) as session:
            session.add(Note(text="x"))
            session.flush()
            while session.unit._deadline.left:  # type: ignore[attr-defined]
                time.sleep(0.01)
            session.commit()

    with pytest.raises(DeadlineExceeded):
        commit_late()
    with db.begin() as session:
        assert session.scalars(select(Note)).all() == []
    db.close()
