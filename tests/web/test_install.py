"""One installation: several databases, mounted applications, routers in routers, overrides, tasks, order."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column
from starlette.middleware.base import BaseHTTPMiddleware

from apps.notes import Base, Note, notes
from fastapi_database import APIRouter, Database, DatabaseRoute, errors, transaction


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str


def add_routes(router: Any, database: Database, prefix: str = "") -> None:
    """Put one endpoint that adds a note, and one that fails after it, on a router."""

    @router.post(prefix + "/notes/{text}", status_code=201)
    def add(text: str, session: Annotated[Session, Depends(database.session)]) -> None:
        session.add(Note(text=text))

    @router.post(prefix + "/async/{text}", status_code=201)
    async def add_async(text: str, session: Annotated[AsyncSession, Depends(database.async_session)]) -> None:
        session.add(Note(text=text))

    @router.post(prefix + "/fails/{text}")
    def fails(text: str, session: Annotated[Session, Depends(database.session)]) -> None:
        session.add(Note(text=text))
        session.flush()
        raise HTTPException(400)


ROUTERS = [pytest.param(APIRouter, id="own"), pytest.param(fastapi.APIRouter, id="plain")]


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("installed_first", [True, False])
def test_install_works_before_and_after_routers_and_middleware(kind: Any, db: Database, installed_first: bool) -> None:
    app, router = FastAPI(), kind()
    add_routes(router, db)
    if installed_first:
        db.install(app)
    app.include_router(router)

    @app.middleware("http")
    async def tag(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-tag"] = "1"
        return response

    if not installed_first:
        db.install(app)
    with TestClient(app) as client:
        assert client.post("/notes/a").headers["x-tag"] == "1"
        assert client.post("/notes/a").status_code == 409
        assert client.post("/async/b").status_code == 201
        assert client.post("/async/b").status_code == 409
        assert client.post("/fails/c").status_code == 400
    assert notes(db) == ["a", "b"]


def every_route(app: FastAPI, database: Database) -> None:
    """Register routes of the application itself, with every kind of option and endpoint."""
    add_routes(app, database)
    returned = Annotated[Session, Depends(database.session)]

    @app.post("/returned/{text}", status_code=201, response_model=Out, tags=["a"], summary="Adds", operation_id="add")
    def returned_before_it_is_flushed(text: str, session: returned) -> Note:
        row = Note(text=text)
        session.add(row)
        return row

    @app.get("/rows", responses={404: {"model": Out}}, response_model_exclude={"text"}, include_in_schema=True)
    def rows(session: returned) -> list[Out]:
        """Give all rows."""
        return [Out.model_validate(one) for one in session.query(Note)]

    @app.get("/plain", response_class=PlainTextResponse, deprecated=True, dependencies=[Depends(database.session)])
    async def plain() -> str:
        return "plain"

    @app.get("/stream", dependencies=[Depends(database.session)])
    def stream() -> Iterator[Out]:
        yield Out(id=1, text="a")

    @app.api_route("/both", methods=["GET"], name="two words")
    def both() -> dict[str, int]:
        return {"one": 1}


def test_routes_of_the_application_that_were_there_before_install_are_the_same(tmp_path: Path) -> None:
    """Nothing of a route but its class depends on whether it was registered before or after."""
    seen: list[Any] = []
    for place, installed_first in enumerate((True, False)):
        database, app = Database(f"sqlite:///{tmp_path}/{place}.db", models=Base), FastAPI()
        database.create_all()
        if installed_first:
            database.install(app)
        every_route(app, database)
        if not installed_first:
            database.install(app)
        with TestClient(app) as client:
            answers = [
                client.request(method, path)
                for method, path in (
                    *(("POST", path) for path in ("/returned/a", "/returned/a", "/notes/b", "/async/c", "/fails/d")),
                    *(("GET", path) for path in ("/rows", "/plain", "/stream", "/both", "/openapi.json", "/docs")),
                    ("DELETE", "/both"),
                )
            ]
        seen.append([(one.status_code, one.text) for one in answers])
        assert answers[0].json() == {"id": 1, "text": "a"}
        assert [one.status_code for one in answers] == [201, 409, 201, 201, 400, *[200] * 6, 405]
        assert notes(database) == ["a", "b", "c"]
        database.close()
    assert seen[0] == seen[1]


def test_routes_of_another_class_are_left_as_they_are(db: Database) -> None:
    class Own(APIRoute): ...

    def nothing() -> None: ...

    app = FastAPI()
    app.router.add_api_route("/own", nothing, route_class_override=Own)
    db.install(app)
    assert [type(route) for route in app.routes if isinstance(route, APIRoute)] == [Own]


@pytest.mark.parametrize("kind", ROUTERS)
def test_routers_in_routers_and_one_router_included_twice(kind: Any, db: Database) -> None:
    inner, outer, app = kind(), kind(), FastAPI()
    add_routes(inner, db)
    outer.include_router(inner, prefix="/inner", default_response_class=PlainTextResponse)
    app.include_router(outer, prefix="/one")
    app.include_router(outer, prefix="/two")
    db.install(app)
    with TestClient(app) as client:
        assert client.post("/one/inner/notes/a").status_code == 201
        assert client.post("/two/inner/notes/b").status_code == 201
        assert client.post("/two/inner/notes/b").json()["code"] == "unique-violation"
        assert client.post("/one/inner/async/c").headers["content-type"].startswith("text/plain")
    assert notes(db) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("sub_installed", [True, False])
def test_a_mounted_application_shares_the_request_and_answers_its_own_errors(
    kind: Any, db: Database, sub_installed: bool
) -> None:
    router, sub, app = kind(), FastAPI(), FastAPI()
    add_routes(router, db)
    sub.include_router(router)
    if sub_installed:
        db.install(sub)
    db.install(app)
    app.mount("/sub", sub)
    with TestClient(app) as client:
        assert client.post("/sub/notes/a").status_code == 201
        assert client.post("/sub/notes/a").json()["code"] == "unique-violation"
        assert client.post("/sub/async/a").json()["code"] == "unique-violation"
        assert client.post("/sub/fails/b").status_code == 400
    assert notes(db) == ["a"]


@pytest.mark.parametrize("kind", ROUTERS)
def test_two_databases_in_one_request_commit_and_roll_back_together(kind: Any, db: Database) -> None:
    other = Database("sqlite://", models=Base)
    other.create_all()
    router, app = kind(), FastAPI()

    @router.post("/both/{text}/{status}")
    def both(
        text: str,
        status: int,
        one: Annotated[Session, Depends(db.session)],
        two: Annotated[Session, Depends(other.session)],
    ) -> JSONResponse:
        one.add(Note(text=text))
        two.add(Note(text=text))
        return JSONResponse({}, status)

    app.include_router(router)
    db.install(app)
    other.install(app)
    with other.begin() as session:
        session.add(Note(text="taken"))
    with TestClient(app) as client:
        assert client.post("/both/a/200").status_code == 200
        assert client.post("/both/b/409").status_code == 409
        assert client.post("/both/taken/200").status_code == 409  # refused by the second before the first commits
    assert notes(other) == ["taken", "a"]
    assert notes(db) == ["a"]
    other.close()


class Owned(Base):
    __tablename__ = "owned"
    id: Mapped[int] = mapped_column(primary_key=True)
    note_id: Mapped[int] = mapped_column(ForeignKey("notes.id", deferrable=True, initially="DEFERRED"))


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize(("refused", "durable"), [(0, []), (1, ["0"]), (2, ["0", "1"])])
def test_a_commit_that_fails_says_which_of_several_databases_are_durable(
    kind: Any, refused: int, durable: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    databases = [Database(f"sqlite:///{tmp_path / f'number-{one}'}", models=Base) for one in range(3)]
    router, app = kind(), FastAPI()
    zero, one, two = databases

    @router.post("/all", status_code=201)
    def write_all(
        first: Annotated[Session, Depends(zero.session)],
        second: Annotated[Session, Depends(one.session)],
        third: Annotated[Session, Depends(two.session)],
    ) -> None:
        sessions = first, second, third
        for session in sessions:
            session.add(Note(text="a"))
        sessions[refused].add(Owned(note_id=99))  # accepted by the flush, refused by COMMIT

    app.include_router(router)
    for database in databases:
        database.create_all()
        database.install(app)
    with TestClient(app) as client:
        assert client.post("/all").status_code == 409
    assert [str(number) for number in range(3) if notes(databases[number])] == durable
    assert re.findall(r"number-(\d)", caplog.text) == durable
    assert ('"POST /all" failed, but is stored in' in caplog.text) == bool(durable)
    for database in databases:
        database.close()


@pytest.mark.parametrize("kind", ROUTERS)
def test_dependency_overrides_reach_the_session(kind: Any, db: Database) -> None:
    router, app = kind(), FastAPI()
    add_routes(router, db)
    app.include_router(router)
    db.install(app)
    test_db = Database("sqlite://", models=Base)
    test_db.create_all()
    test_db.install(app)
    app.dependency_overrides[db.session] = test_db.session
    with TestClient(app) as client:
        assert client.post("/notes/a").status_code == 201
    assert notes(db) == []
    assert notes(test_db) == ["a"]
    test_db.close()


@pytest.mark.parametrize("kind", ROUTERS)
def test_background_tasks_run_after_a_commit_and_not_after_a_failed_one(kind: Any, db: Database) -> None:
    router, app, ran = kind(), FastAPI(), list[str]()

    @router.post("/notes/{text}", status_code=201)
    def add(text: str, tasks: BackgroundTasks, session: Annotated[Session, Depends(db.session)]) -> None:
        session.add(Note(text=text))
        tasks.add_task(lambda: ran.append(",".join(notes(db))))

    app.include_router(router)
    db.install(app)
    with TestClient(app) as client:
        assert client.post("/notes/a").status_code == 201
        assert client.post("/notes/a").status_code == 409
    assert ran == ["a"]


@pytest.mark.parametrize("kind", ROUTERS)
def test_an_applications_own_handler_wins_whenever_it_is_registered(kind: Any, db: Database) -> None:
    router, app = kind(), FastAPI()
    add_routes(router, db)
    app.include_router(router)
    db.install(app)

    @app.exception_handler(IntegrityError)
    def mine(_request: Any, _error: IntegrityError) -> JSONResponse:
        return JSONResponse({"mine": True}, 418)

    with TestClient(app) as client:
        client.post("/notes/a")
        for path in ("/notes/a", "/async/a"):
            assert client.post(path).json() == {"mine": True}
    assert notes(db) == ["a"]


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("roots", [[], [SQLAlchemyError, errors.FastAPIDatabaseError]])
def test_a_handler_for_every_exception_is_asked_last_unless_it_takes_the_roots(
    kind: Any, db: Database, roots: list[type[Exception]]
) -> None:
    router, app = kind(), FastAPI()
    add_routes(router, db)
    app.include_router(router)
    db.install(app)
    for error in (Exception, *roots):
        app.add_exception_handler(error, lambda *_: JSONResponse({"mine": True}, 418))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.post("/notes/a")
        assert client.post("/notes/a").status_code == (418 if roots else 409)
    assert notes(db) == ["a"]


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_lifespan_of_the_application_runs_around_ours(kind: Any, db: Database) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, int]]:
        seen.append("start")
        yield {"answer": 42}
        seen.append(db.stats().open)

    app, router = FastAPI(lifespan=lifespan), kind()
    add_routes(router, db)
    app.include_router(router)

    @app.get("/state")
    def state(request: fastapi.Request) -> int:
        return int(request.state.answer)

    db.install(app)
    for text in ("a", "b"):  # a second start opens again what the end of the first closed
        with TestClient(app) as client:
            assert client.get("/state").json() == 42
            assert client.post(f"/notes/{text}").status_code == 201
        assert db.stats().open == 0
    assert seen == ["start", 1, "start", 1]  # ours closes after the application's own shutdown, which may use it
    assert notes(db) == ["a", "b"]


@pytest.mark.parametrize("kind", ROUTERS)
def test_base_http_middleware_inside_a_mounted_application_sees_the_replaced_answer(kind: Any, db: Database) -> None:
    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    router, sub, app = kind(), FastAPI(), FastAPI()

    @router.post("/{text}")
    def add(text: str, session: Annotated[Session, Depends(db.session)]) -> PlainTextResponse:
        session.add(Note(text=text))
        return PlainTextResponse("not this", 201)

    sub.include_router(router)
    sub.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.mount("/sub", sub)
    db.install(app)
    with TestClient(app) as client:
        assert client.post("/sub/a").text == "not this"
        assert client.post("/sub/a").json()["status"] == 409
        assert client.post("/sub/b").status_code == 201


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("form", ["returned", "raised"])
def test_commit_on_commits_in_spite_of_the_error(kind: Any, form: str, db: Database) -> None:
    router, app = kind(), FastAPI()

    def end(status: int) -> JSONResponse:
        if form == "raised":
            raise HTTPException(status)
        return JSONResponse({}, status)

    @router.post("/sync/{status}")
    @transaction(commit_on={401})
    def sync(status: int, session: Annotated[Session, Depends(db.session)]) -> JSONResponse:
        session.add(Note(text=f"sync {status}"))
        return end(status)

    @router.post("/async/{status}")
    @transaction(commit_on={401})
    async def asynchronous(status: int, session: Annotated[AsyncSession, Depends(db.async_session)]) -> JSONResponse:
        session.add(Note(text=f"async {status}"))
        return end(status)

    app.include_router(router)
    db.install(app)
    with TestClient(app) as client:
        for path in ("sync", "async"):
            for status in (401, 403):
                assert client.post(f"/{path}/{status}").status_code == status
    assert notes(db) == ["sync 401", "async 401"]


def test_commit_on_takes_only_errors() -> None:
    with pytest.raises(errors.ConflictingSettings, match="400 to 599"):
        transaction(commit_on={200})


@pytest.mark.parametrize("wrong", [401, "401", None, {"401"}, [401.0], [None]])
def test_commit_on_takes_only_a_collection_of_statuses(wrong: Any) -> None:
    with pytest.raises(
        errors.ConflictingSettings, match=r"^commit_on=.*(write for example commit_on=.401.|400 to 599)"
    ):
        transaction(commit_on=wrong)


def test_commit_on_takes_any_collection_of_statuses() -> None:
    for given in ([401], (401,), frozenset({HTTPStatus(401)}), {401: "unauthorized"}):
        transaction(commit_on=given)


def test_install_makes_our_route_class_that_of_the_application_but_respects_another(db: Database) -> None:
    app = FastAPI()
    db.install(app)
    assert app.router.route_class is DatabaseRoute

    class Own(fastapi.routing.APIRoute): ...

    other = FastAPI()
    other.router.route_class = Own
    Database("sqlite://").install(other)
    assert other.router.route_class is Own
