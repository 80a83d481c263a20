"""Fixtures of the A tests: databases and servers that last as long as the tests do."""

from collections.abc import Generator, Iterator

import pytest

from apps.a_serving import BACKENDS, CELLS, SPREAD, Backend, Backends, Cell
from support.run import Run

USED = pytest.StashKey[list[Backend]]()
TAIL = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the server of a failed test wrote last."""
    report = yield
    if report.failed:
        for backend in item.stash.get(USED, []):
            tail = "\n".join(backend.log().splitlines()[-TAIL:])
            report.sections.append((f"log of uvicorn on {backend.name}", tail))
    return report


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest, run: Run) -> Iterator[Backends]:
    """The databases of the A tests."""
    made = Backends(run, lambda: request.getfixturevalue("postgresql"))
    yield made
    made.close()


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request: pytest.FixtureRequest, backends: Backends) -> Cell:
    """Every form on every database and driver."""
    return _cell(request, backends)


@pytest.fixture(params=SPREAD, ids="-".join)
def spread_cell(request: pytest.FixtureRequest, backends: Backends) -> Cell:
    """Four cells that have each database, each kind and each class of route twice."""
    return _cell(request, backends)


@pytest.fixture(params=[one for one in CELLS if one not in SPREAD], ids="-".join)
def other_cell(request: pytest.FixtureRequest, backends: Backends) -> Cell:
    """The cells that are not among the four."""
    return _cell(request, backends)


@pytest.fixture(params=[one for one in CELLS if one[0] != "sqlite"], ids="-".join)
def postgresql_cell(request: pytest.FixtureRequest, backends: Backends) -> Cell:
    """Every form on PostgreSQL."""
    return _cell(request, backends)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, backends: Backends) -> Backend:
    """Every database and driver."""
    return backends.get(request.param)


def _cell(request: pytest.FixtureRequest, backends: Backends) -> Cell:
    name, kind, route = request.param
    backend = backends.get(name)
    request.node.stash.setdefault(USED, []).append(backend)
    return Cell(backend, kind, route)
