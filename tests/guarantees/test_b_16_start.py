"""B16: a database that is not there yet when the server starts, or lets nobody in."""

import time
from collections.abc import Callable

import pytest

from apps.b_serving import comes_true
from support.clients import burst, statuses
from support.postgres import LocalServer, PostgreSQL
from support.server import Server

APP = "apps.b_death:app"
FORMS = [("sync", "psycopg"), ("async", "psycopg"), ("async", "asyncpg")]
NAMES = ["-".join(form) for form in FORMS]
SLACK = 5  # how many times a stated deadline a noisy machine gets


@pytest.mark.parametrize(("kind", "driver"), FORMS, ids=NAMES)
def test_b16_a_server_that_starts_before_its_database_is_ready_soon_after_it(
    serve: Callable[..., Server], private_postgresql: LocalServer, kind: str, driver: str
) -> None:
    private_postgresql.stop()
    server = serve(APP, env={"DATABASE_URL": private_postgresql.url(driver=driver)})
    for _ in range(20):
        assert statuses(burst(f"{server.url}/health/ready", 1)) == {503: 1}
        assert statuses(burst(f"{server.url}/{kind}/one", 1)) == {503: 1}
    assert statuses(burst(f"{server.url}/health/live", 1)) == {200: 1}
    assert server.returncode is None
    private_postgresql.start()
    start = time.monotonic()
    assert comes_true(lambda: statuses(burst(f"{server.url}/health/ready", 1)) == {200: 1}, 2.0 * SLACK)
    assert comes_true(lambda: statuses(burst(f"{server.url}/{kind}/one", 1)) == {200: 1}, 2.0 * SLACK)
    assert time.monotonic() - start < 2.0 * SLACK
    assert statuses(burst(f"{server.url}/{kind}/one", 20, concurrency=5)) == {200: 20}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize(
    ("address", "says"),
    [("fastapi:wrong@127.0.0.1:PORT", "refused the login"), ("fastapi:wrong@no-such-host.invalid", "no-such-host")],
    ids=["wrong password", "unknown host"],
)
def test_b16_what_is_wrong_is_one_clear_line_when_only_ready_asks(
    serve: Callable[..., Server], postgresql: PostgreSQL, driver: str, address: str, says: str
) -> None:
    where = address.replace("PORT", str(postgresql.port))
    server = serve(APP, env={"DATABASE_URL": f"postgresql+{driver}://{where}/postgres"})

    def told() -> bool:
        assert statuses(burst(f"{server.url}/health/ready", 1)) == {503: 1}
        return says in server.log()

    assert comes_true(told, 60)
    assert statuses(burst(f"{server.url}/health/ready", 50)) == {503: 50}
    lines = [line for line in server.log().splitlines() if not line.startswith("INFO:")]
    # On a busy machine a question may have been given up before, which is another reason.
    (line,) = [line for line in lines if says in line and "answer" not in line]
    assert line.startswith("not ready: ")
    assert "wrong" not in server.log()
