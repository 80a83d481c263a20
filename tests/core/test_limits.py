"""Workers, connections and what the server has room for: decisions of values."""

import pytest

from fastapi_database.core.limits import Room, warning, workers


@pytest.mark.parametrize(
    ("command", "environ", "count"),
    [
        (["/venv/bin/uvicorn", "app:app", "--workers", "4"], {}, 4),
        (["/venv/lib/site-packages/uvicorn/__main__.py", "app:app", "--workers=3"], {}, 3),
        (["gunicorn", "-w", "8", "app:app"], {"WEB_CONCURRENCY": "2"}, 8),
        (["gunicorn", "-w8"], {}, 8),
        (["fastapi", "run", "--workers", "2"], {}, 2),
        (["uvicorn", "app:app"], {"WEB_CONCURRENCY": "5"}, 5),
        (["uvicorn", "app:app"], {}, None),
        (["uvicorn", "app:app", "--workers"], {}, None),
        (["uvicorn", "app:app", "--workers", "many"], {"WEB_CONCURRENCY": "none"}, None),
        (["pytest", "-w", "4"], {}, None),
        ([], {}, None),
    ],
)
def test_how_many_workers_there_are(command: list[str], environ: dict[str, str], count: int | None) -> None:
    assert workers(command, environ) == count


def test_enough_is_no_warning_and_one_too_many_is() -> None:
    room = Room(most=100, reserved=3, others=57)
    assert room.left == 40
    assert warning(room, processes=4, max_connections=10) is None
    said = warning(room, processes=4, max_connections=11)
    assert said is not None
    assert said.startswith("4 workers x max_connections 11 = 44 connections, and the server has 40 for them ")
    assert "Set max_connections to 10 at most" in said


def test_what_is_not_known_is_called_per_process() -> None:
    said = warning(Room(most=20, reserved=3, others=30), processes=None, max_connections=50)
    assert said is not None
    assert said.startswith("this process alone x max_connections 50 = 50 connections, and the server has 0 for them")
    assert "to 1 at most" in said
