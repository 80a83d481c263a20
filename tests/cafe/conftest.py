"""The café, once per test, on a database of its own."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.testclient import TestClient

PACKAGE = "examples.cafe"


@pytest.fixture
def cafe(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the application as a new process would: its one `Database` is made from the environment."""
    monkeypatch.chdir(tmp_path)  # no `.env` of the developer's
    monkeypatch.setenv("DATABASE_URL", url)
    _forget()
    yield importlib.import_module(f"{PACKAGE}.main")
    _forget()


@pytest.fixture
def client(cafe: ModuleType) -> Iterator[TestClient]:
    """Give a client of the running application."""
    with TestClient(cafe.app) as client:
        yield client


def _forget() -> None:
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
