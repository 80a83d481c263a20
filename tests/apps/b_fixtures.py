"""Fixtures of the B tests, a plugin of pytest: every form of `b_life`, each server kept from test to test."""

from collections.abc import Callable, Iterator

import pytest

from apps.b_serving import FORMS, Form, Served, Servers, comes_true
from support.run import Run


@pytest.fixture(scope="session")
def servers(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(run, tmp_path_factory.mktemp("life"))
    yield made
    made.close()


@pytest.fixture
def served(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Callable[..., Served]]:
    """Give servers of `b_life` or another app; leaving one with a connection or a transaction in use fails the test."""
    used: dict[int, Served] = {}

    def get(database: str, *, app: str = "", **env: str) -> Served:
        postgresql = None if database == "sqlite" else request.getfixturevalue("postgresql")
        one = servers.get(database, postgresql, env, app=app)
        used[id(one)] = one
        return one

    yield get
    for one in used.values():
        at_rest = one.server.returncode is None and comes_true(one.is_at_rest, 5.0)
        if not at_rest:
            log = one.server.log()[-6000:]
            servers.forget(one)
            pytest.fail(f"the server is not at rest after the test; its log ends with\n{log}")


@pytest.fixture(params=FORMS, ids="-".join)
def form(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """Every form: sync and async sessions, each router, each database and driver."""
    return _form(request.param, served)


@pytest.fixture(params=[one for one in FORMS if one[1] == "async"], ids="-".join)
def async_form(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """The forms with an async session."""
    return _form(request.param, served)


@pytest.fixture(params=[one for one in FORMS if one[0] != "sqlite"], ids="-".join)
def postgresql_form(request: pytest.FixtureRequest, served: Callable[..., Served]) -> Form:
    """The forms on PostgreSQL."""
    return _form(request.param, served)


def _form(names: tuple[str, str, str], served: Callable[..., Served]) -> Form:
    database, kind, router = names
    return Form(served(database), database, kind, router)
