"""Fixtures: a database in memory with one empty table."""

from collections.abc import Iterator

import pytest

from apps.notes import Base
from fastapi_database import Database


@pytest.fixture
def db() -> Iterator[Database]:
    database = Database("sqlite://", models=Base)
    database.create_all()
    yield database
    database.close()
