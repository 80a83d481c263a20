"""B4: several statements at once on one async session."""

from collections import Counter
from itertools import count

import pytest

from apps.b_serving import Form, comes_true
from support.clients import statuses

pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)


@pytest.mark.parametrize(
    ("pool", "swallow"), [("warm", False), ("cold", False), ("cold", True), ("held", True), ("held", False)]
)
def test_b4_gathered_statements_on_one_session_raise_before_their_sql_is_sent(
    async_form: Form, pool: str, swallow: bool
) -> None:
    log = async_form.served.log_from_here()
    run = f"run{next(NUMBERS)}-"
    path = f"/gather/{pool}?swallow={swallow}&name="
    answers = async_form.burst(lambda i: f"{path}{run}{i}", 100, method="POST")
    assert Counter((answer.status, answer.json()["code"]) for answer in answers) == {(500, "concurrent-use"): 100}
    sent = async_form.served.ask(f"/statements?containing=gather {run}").json()
    selects = Counter(statement.split(f"gather {run}")[1].split()[0] for statement in sent)
    assert max(selects.values(), default=0) <= 1  # the first of three; it is given up where it still runs
    assert async_form.served.rows_like(f"gather {run}%") == 0
    assert comes_true(async_form.served.is_at_rest, 0.1)
    async_form.served.ask("/collect", "POST")
    assert "garbage collector" not in log()
    assert "never retrieved" not in log()
    assert statuses(async_form.burst("/one", 20, concurrency=10)) == {200: 20}
