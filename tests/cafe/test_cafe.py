"""What the café answers, on every database."""

from types import ModuleType

import pytest
from fastapi.testclient import TestClient

NEEDS_TOKEN = [("PATCH", "/users/1"), ("DELETE", "/users/1"), ("GET", "/me"), ("POST", "/me/token")]


def add(client: TestClient, name: str = "John Doe") -> tuple[int, dict[str, str]]:
    """Add a user; give the id, and the headers that authenticate it."""
    answer = client.post("/users", json={"name": name})
    assert answer.status_code == 201
    return answer.json()["id"], {"Authorization": f"Bearer {answer.headers['Bearer-Token']}"}


def names(client: TestClient) -> list[str]:
    return [user["name"] for user in client.get("/users").json()]


def test_the_first_user_is_created_exactly_as_people_start(client: TestClient) -> None:
    answer = client.post("/users", json={"name": "John Doe"})
    assert answer.status_code == 201
    assert answer.content == b'{"id":1,"name":"John Doe"}'
    assert len(answer.headers["Bearer-Token"]) >= 43  # 256 bits
    assert answer.headers["Cache-Control"] == "no-store"


def test_users_are_listed_oldest_first_and_read_by_their_id(client: TestClient) -> None:
    assert client.get("/users").json() == []
    for name in ("Zoe", "Adam", "Zoe"):
        add(client, name)
    expected = [{"id": 1, "name": "Zoe"}, {"id": 2, "name": "Adam"}, {"id": 3, "name": "Zoe"}]
    assert client.get("/users").json() == expected
    assert [client.get(f"/users/{user['id']}").json() for user in expected] == expected


def test_a_user_that_does_not_exist_is_404(client: TestClient) -> None:
    answer = client.get("/users/7")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no user 7."


def test_an_id_that_no_user_can_have_is_422(client: TestClient) -> None:
    for user_id in ("0", "-1", "2147483648", "99999999999999999999", "x"):
        assert client.get(f"/users/{user_id}").status_code == 422


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_missing_name_is_422_and_changes_nothing(client: TestClient, method: str) -> None:
    user_id, me = add(client)
    path = "/users" if method == "POST" else f"/users/{user_id}"
    for body in ('{"name": ""}', '{"name": "  "}', '{"name": null}', "{}", "", "[]"):
        answer = client.request(method, path, content=body, headers=me | {"Content-Type": "application/json"})
        assert answer.status_code == 422
    assert names(client) == ["John Doe"]


def test_a_name_that_cannot_be_shown_or_stored_is_422(client: TestClient) -> None:
    for name in ("x" * 81, "a\x00b", "a\nb", "\x7f"):
        assert client.post("/users", json={"name": name}).status_code == 422
    assert names(client) == []


def test_any_other_name_comes_back_as_it_was_given(client: TestClient) -> None:
    given = ["x" * 80, "김철수", "👩‍🍳", "<b>Robert'); DROP TABLE users;--</b>"]
    for name in given:
        add(client, name)
    assert names(client) == given


def test_a_new_name_is_in_the_next_answer(client: TestClient) -> None:
    user_id, me = add(client)
    add(client, "Somebody else")
    answer = client.patch(f"/users/{user_id}", json={"name": " Jane Doe "}, headers=me)
    assert (answer.status_code, answer.json()) == (200, {"id": user_id, "name": "Jane Doe"})
    assert client.get(f"/users/{user_id}").json() == {"id": user_id, "name": "Jane Doe"}
    assert client.get("/me", headers=me).json() == {"id": user_id, "name": "Jane Doe"}
    assert names(client) == ["Jane Doe", "Somebody else"]


def test_a_deleted_user_is_gone_and_so_is_the_token(client: TestClient) -> None:
    user_id, me = add(client)
    answer = client.delete(f"/users/{user_id}", headers=me)
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/users/{user_id}").status_code == 404
    assert client.get("/users").json() == []
    assert client.delete(f"/users/{user_id}", headers=me).status_code == 401
    assert client.get("/me", headers=me).status_code == 401


def test_an_id_is_never_given_twice(client: TestClient) -> None:
    first, me = add(client)
    client.delete(f"/users/{first}", headers=me)
    second, _ = add(client)
    assert second != first


@pytest.mark.parametrize(("method", "path"), NEEDS_TOKEN)
def test_without_a_valid_token_the_answer_is_401(client: TestClient, method: str, path: str) -> None:
    add(client)
    body = {"name": "Eve"} if method == "PATCH" else None
    for header in (None, b"Bearer", b"Bearer wrong", b"Basic am9objpkb2U=", b"Bearer \xff"):
        headers = {} if header is None else {"Authorization": header}
        answer = client.request(method, path, headers=headers, json=body)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "Bearer-Token" not in answer.headers
    assert names(client) == ["John Doe"]


def test_a_token_opens_nothing_of_another_user(client: TestClient) -> None:
    john, _ = add(client)
    _, eve = add(client, "Eve")
    for user_id in (john, 7):  # also where there is nobody: a token does not tell who exists
        assert client.patch(f"/users/{user_id}", json={"name": "Eve"}, headers=eve).status_code == 403
        assert client.delete(f"/users/{user_id}", headers=eve).status_code == 403
    assert names(client) == ["John Doe", "Eve"]


def test_a_new_token_replaces_the_old_one(client: TestClient) -> None:
    user_id, old = add(client)
    answer = client.post("/me/token", headers=old)
    assert answer.status_code == 204
    new = {"Authorization": f"Bearer {answer.headers['Bearer-Token']}"}
    assert client.get("/me", headers=old).status_code == 401
    assert client.patch(f"/users/{user_id}", json={"name": "Jane Doe"}, headers=old).status_code == 401
    assert client.get("/me", headers=new).json() == {"id": user_id, "name": "John Doe"}


def test_the_database_never_holds_a_token(cafe: ModuleType, client: TestClient) -> None:
    _, me = add(client)
    token = me["Authorization"].removeprefix("Bearer ")
    with cafe.db.begin() as session:
        stored = session.connection().exec_driver_sql("SELECT * FROM users").one()
    assert token not in str(stored)
    assert len(stored.token_hash) == 64


def test_settings_reach_an_endpoint_as_a_dependency(cafe: ModuleType, client: TestClient) -> None:
    from examples.cafe.settings import Settings, get_settings  # after the fixture has imported it afresh

    cafe.app.dependency_overrides[get_settings] = lambda: Settings(registration_open=False)
    answer = client.post("/users", json={"name": "John Doe"})
    assert answer.status_code == 403
    assert "no new users" in answer.json()["detail"]
    assert "Bearer-Token" not in answer.headers
    assert client.get("/users").json() == []


def test_it_says_that_it_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_the_documentation_names_every_endpoint_and_how_to_authenticate(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    assert {"/users", "/users/{user_id}", "/me", "/me/token"} <= schema["paths"].keys()
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert schema["components"]["schemas"]["UserOut"]["properties"].keys() == {"id", "name"}
    assert "Bearer-Token" in schema["paths"]["/users"]["post"]["responses"]["201"]["headers"]
