"""A place that was refused: what the message says, who answers it, and when it is forgotten."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from apps.c_cases import ROUTERS, endpoint, router
from fastapi_database import Database, errors

SHORT = 0.05


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def database(**options: Any) -> Database:
        made.append(Database(f"sqlite:///{tmp_path / str(len(made))}", queue_timeout=SHORT, **options))
        with made[-1].begin() as session:
            session.execute(text("CREATE TABLE notes (text TEXT)"))
        return made[-1]

    yield database
    for one in made:
        one.close()


def write(session: Session) -> None:
    session.execute(text("INSERT INTO notes VALUES ('a')"))


# What the message says.


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize(
    ("places", "held"),
    [(3, r"in use 1, waiting 1; the writer's place held .*itself"), (1, r"longest held .* holds one of them itself")],
)
def test_a_request_that_waits_for_itself_is_told_so(
    make: Callable[..., Database], caplog: pytest.LogCaptureFixture, routes: str, places: int, held: str
) -> None:
    db, app = make(max_connections=places), FastAPI()

    def write_twice(session: Session) -> None:
        write(session)
        with db.begin() as other:
            write(other)

    added = router(routes)
    added.add_api_route("/", endpoint(db, "sync", write_twice), methods=["POST"])
    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        assert client.post("/").status_code == 503
    (record,) = [one for one in caplog.records if one.name == "fastapi_database"]
    said = record.getMessage()
    assert 'by "POST /"' in said
    assert re.search(held, said), said
    assert "do all of its work in the session it has" in said
    assert "raise max_connections" not in said


def test_another_writer_in_the_way_is_no_reason_to_raise_max_connections(make: Callable[..., Database]) -> None:
    db = make(max_connections=3)
    with db.begin() as session:
        write(session)
        with pytest.raises(errors.QueueTimeout, match=r"the writer's place held .*test_refusals.*one writer") as caught:
            in_a_thread(db)
    assert "raise max_connections" not in str(caught.value)


def in_a_thread(db: Database) -> None:
    def use() -> None:
        with db.begin() as session:
            write(session)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(use).result()
