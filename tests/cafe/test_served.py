"""The café as it is run: under uvicorn, in a process of its own, with many guests at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from support.server import Server

APP = "examples.cafe.main:app"
GUESTS = 60


def test_what_was_answered_is_there_after_a_restart(serve: Callable[..., Server], url: str) -> None:
    server = serve(APP, env={"DATABASE_URL": url})
    with httpx.Client(base_url=server.url) as client:
        created = client.post("/users", json={"name": "John Doe"})
    server.kill()
    server = serve(APP, env={"DATABASE_URL": url})
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/users").json() == [created.json()]
        me = {"Authorization": f"Bearer {created.headers['Bearer-Token']}"}
        assert client.get("/me", headers=me).json() == created.json()


def test_many_guests_at_once_all_get_what_they_asked_for(serve: Callable[..., Server], url: str) -> None:
    server = serve(APP, env={"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": "3"})

    def visit(number: int) -> dict[str, object]:
        created = client.post("/users", json={"name": f"guest {number}"})
        me = {"Authorization": f"Bearer {created.headers['Bearer-Token']}"}
        path = f"/users/{created.json()['id']}"
        assert client.get("/me", headers=me).json() == created.json()
        renamed = client.patch(path, json={"name": f"regular {number}"}, headers=me)
        assert client.get(path).json() == renamed.json()
        return renamed.json()

    everyone = httpx.Limits(max_connections=GUESTS)
    with (
        httpx.Client(base_url=server.url, timeout=30, limits=everyone) as client,
        ThreadPoolExecutor(GUESTS) as guests,
    ):
        seen = list(guests.map(visit, range(GUESTS)))
        assert client.get("/users").json() == sorted(seen, key=lambda user: user["id"])
    assert sorted(user["name"] for user in seen) == sorted(f"regular {n}" for n in range(GUESTS))
