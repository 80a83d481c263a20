"""B14: a primary that ends, and the standby that follows it and takes over: two servers, one URL."""

import time
from collections.abc import Callable, Iterator

import pytest

from apps.b_load import Load
from apps.b_serving import comes_true
from support.clients import Answer, burst, statuses
from support.postgres import LocalServer, Standby
from support.server import Server

pytestmark = pytest.mark.load

FORMS = [("sync", "psycopg"), ("async", "psycopg"), ("async", "asyncpg")]
POOL = 5
SLACK = 5  # how many times a stated deadline a noisy machine gets
TABLE = "CREATE TABLE notes (id SERIAL PRIMARY KEY, text TEXT)"
COUNT = "SELECT count(*) FROM notes"


@pytest.fixture
def standby(private_postgresql: LocalServer) -> Iterator[Standby]:
    private_postgresql.execute(TABLE)
    one = private_postgresql.standby()
    yield one
    one.close()


@pytest.mark.parametrize("form", FORMS, ids=map("-".join, FORMS))
def test_b14_writes_go_on_at_a_promoted_standby_and_none_that_was_answered_is_lost(
    serve: Callable[..., Server], private_postgresql: LocalServer, standby: Standby, form: tuple[str, str]
) -> None:
    kind, driver = form
    primary = private_postgresql
    assert standby.execute("SELECT pg_is_in_recovery()") == [(True,)]
    # The standby comes first: it is there all the time, and only its answer says that it is not the one.
    hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    url = f"postgresql+{driver}://{primary.user}:{primary.password}@{hosts}/postgres?target_session_attrs=read-write"
    server = serve("apps.b_death:app", env={"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": str(POOL)})
    with Load(server, kind) as load:
        assert comes_true(lambda: len(load.answers) > 30)
        assert set(statuses(load.since(0.0))) == {201}
        primary.stop()  # it ends its clients, and the standby has all that they stored
        assert comes_true(lambda: any(code(one) == "unreachable" for _, one in list(load.answers)))
        standby.promote()
        promoted = time.monotonic()
        assert comes_true(lambda: any(one.status == 201 for one in load.since(promoted)), 5.0 * SLACK)
        settled = time.monotonic()
        assert comes_true(lambda: len(load.since(settled)) > 30)
    answers = [one for _, one in load.answers]
    assert set(statuses(load.since(settled))) == {201}
    assert set(statuses(answers)) <= {201, 503, 500}
    unknown = [one for one in answers if one.status == 500]
    assert {code(one) for one in unknown} <= {"outcome-unknown"}
    answered = statuses(answers)[201]
    ((stored,),) = standby.execute(COUNT)
    assert answered <= stored <= answered + len(unknown)
    assert statuses(burst(f"{server.url}/{kind}/notes/y", 50, method="POST", concurrency=5)) == {201: 50}
    assert "Traceback" not in server.log()


def code(answer: Answer) -> str | None:
    """Give the code of a problem document."""
    return None if answer.status == 201 else answer.json()["code"]
