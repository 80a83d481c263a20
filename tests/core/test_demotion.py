"""Which connections are asked whether they take writes, after one was refused a write."""

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import exc as sa

from fastapi_database.core.demotion import SUSPECT_AGAIN, Demotion


class Server:
    """What a demoted server is to :class:`Demotion`: it refuses writes, and says so when asked."""

    loaded_dbapi = SimpleNamespace(Error=LookupError)

    def __init__(self) -> None:
        self.takes_writes = False
        self.asked = 0

    def is_read_only(self, _error: BaseException) -> bool:
        return True

    def may_write(self, _connection: object) -> bool:
        self.asked += 1
        return self.takes_writes


def refused(info: dict[Any, Any]) -> Any:
    """The context of an error on a connection with this ``info``."""
    connection = SimpleNamespace(closed=False, invalidated=False, info=info)
    return SimpleNamespace(original_exception=LookupError(), connection=connection)


def taken(demotion: Demotion, server: Server, info: dict[Any, Any]) -> bool:
    """Take an idle connection from the pool; tell whether it stays."""
    try:
        demotion.check(server, None, info)
    except sa.DisconnectionError:
        return False
    return True


def test_b14_a_connection_that_refused_is_asked_though_it_was_opened_after_the_first_suspicion() -> None:
    """It was opened before the URL led elsewhere: it would refuse each write until the next suspicion."""
    now = 0.0
    server: Any = Server()
    demotion = Demotion(server, clock=lambda: now)
    old = dict[Any, Any]()
    demotion.trust(old)
    now = 10.0
    demotion.listen(refused(old))
    now += SUSPECT_AGAIN / 10
    new, beside = dict[Any, Any](), dict[Any, Any]()
    demotion.trust(new)
    demotion.trust(beside)
    demotion.listen(refused(new))
    assert not taken(demotion, server, new)
    assert taken(demotion, server, beside)  # nothing is known of it yet
    assert server.asked == 1


@pytest.mark.parametrize("times", [1, 5])
def test_a_unit_that_made_its_transaction_read_only_costs_one_question_each_time(times: int) -> None:
    now = 0.0
    server: Any = Server()
    server.takes_writes = True
    demotion = Demotion(server, clock=lambda: now)
    own, others = dict[Any, Any](), [dict[Any, Any]() for _ in range(3)]
    for info in (own, *others):
        demotion.trust(info)
    now = 10.0
    for _ in range(times):
        demotion.listen(refused(own))
        assert all(taken(demotion, server, info) for info in (own, *others))
        now += SUSPECT_AGAIN / 10
    assert server.asked == times + len(others)  # the others once
