"""A6: however it is asked for, a request has one session, and that one connection."""

from apps.a_serving import Backend, Cell
from support.clients import burst, statuses

pytest_plugins = ["apps.a_fixtures"]

ONE = {"asked": 8, "sessions": 1, "connections": 1}


def test_a6_every_way_to_ask_gives_one_session_on_one_connection(cell: Cell) -> None:
    answers = burst(cell.url("/one-session"), 50, concurrency=10)
    assert [one.json() for one in answers] == [ONE] * 50


def test_a6_the_handler_uses_one_server_connection(postgresql_cell: Cell) -> None:
    answers = burst(postgresql_cell.url("/one-backend"), 50, concurrency=10)
    assert [len(one.json()) for one in answers] == [1] * 50


def test_a6_a_pool_of_one_answers_50_concurrent_calls(backend: Backend) -> None:
    server = backend.serve(DATABASE_MAX_CONNECTIONS="1")
    for prefix in backend.prefixes:
        answers = burst(f"{server.url}{prefix}/one-session", 50, concurrency=50)
        assert statuses(answers) == {200: 50}, prefix
        assert all(one.json() == ONE for one in answers), prefix
    server.stop()
