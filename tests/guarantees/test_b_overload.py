"""B11: a closed loop of patient clients is served to the last one, however long the queue stands."""

import asyncio
from collections.abc import Callable

import pytest

from apps.b_serving import POOL
from support.clients import burst, send_burst
from support.server import Server

pytestmark = pytest.mark.load


@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_b11_a_thousand_clients_that_come_again_when_they_are_served_see_no_error(
    serve: Callable[..., Server], postgresql_url: str, path: str
) -> None:
    # Each waits about two seconds; the deadline is far, for a machine that is busy with other things.
    settings = {"DATABASE_URL": postgresql_url, "DATABASE_MAX_CONNECTIONS": str(POOL), "DATABASE_QUEUE_TIMEOUT": "60"}
    server = serve("apps.b_overload:app", env={**settings, "WORK": "0.01"})
    assert burst(f"{server.url}{path}", POOL, concurrency=POOL)[0].status == 200  # connections are open
    answers = asyncio.run(send_burst(f"{server.url}{path}", 2000, concurrency=1000, timeout=120.0))
    assert [answer.body for answer in answers if answer.status != 200] == []
    seen = burst(f"{server.url}/watch", 1)[0].json()
    assert (seen["refused"], seen["shed"], seen["timed_out"]) == (0, 0, 0)
