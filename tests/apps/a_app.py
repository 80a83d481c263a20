"""The application that shows A1 to A8 and A11: every endpoint in every form, under /sync/database, /async/plain, …

`create` is a factory: uvicorn calls it (`--factory`; the database is named by DATABASE_URL), and so do tests that look
at the messages of the application from the same process.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from pydantic import BaseModel, ConfigDict
from sqlalchemy import insert, select, text, update

from apps.a_forms import PATIENCE, Either, Form, forms
from apps.a_model import Account, Base, Child, Parent, Thing
from fastapi_database import Database, transaction

PARENT = 1
COMMITTED = 409


class Refused(Exception):
    """An exception of the application, answered with a status of its own."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


class Forgiven(Exception):
    """An exception that a handler of the application answers with 200."""


class Unforeseen(Exception):
    """An exception that only the handler for `Exception` knows; it answers 200."""


class ThingIn(BaseModel):
    name: str


class ThingOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str


class ChildIn(BaseModel):
    name: str
    parent_id: int | None = None
    seat: int | None = None


class Gate:
    """Where a handler waits, so that a test can look at the database in the middle of a request."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


def create(url: str | None = None, **settings: Any) -> FastAPI:
    """Build the application on a database: its tables are made, and one parent."""
    db = Database(url, models=Base, **settings)
    db.create_all()
    with db.begin() as session:
        session.merge(Parent(id=PARENT))
    db.close()
    app = FastAPI()
    app.state.db = db
    app.state.ran = []
    app.state.gates = defaultdict(Gate)
    db.install(app)
    _add_handlers(app)
    _add_gates(app)
    for register in _GROUPS:  # the busiest endpoints first: FastAPI tries one route after the other
        for form in forms(db):
            register(form)
            app.include_router(form.router)
    return app


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return JSONResponse({"refused": error.status}, error.status)

    @app.exception_handler(ResponseValidationError)
    def invalid(request: Request, _error: ResponseValidationError) -> Response:
        return JSONResponse({"invalid": True}, int(request.query_params["status"]))

    @app.exception_handler(Forgiven)
    async def forgiven(_request: Request, _error: Forgiven) -> Response:
        return JSONResponse({"forgiven": True})

    @app.exception_handler(410)
    def gone(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"forgiven": True})

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, error: Exception) -> Response:
        if isinstance(error, Unforeseen):
            return JSONResponse({"forgiven": True})
        return PlainTextResponse("Internal Server Error", 500)


def _add_gates(app: FastAPI) -> None:
    @app.post("/gates/{name}/reached")
    async def reached(name: str) -> bool:
        return await asyncio.to_thread(app.state.gates[name].reached.wait, PATIENCE)

    @app.post("/gates/{name}/open")
    async def open_(name: str) -> None:
        app.state.gates[name].opened.set()


def _things(form: Form) -> None:
    @form.post("/things", status_code=201, response_model=ThingOut)
    async def create_thing(thing: ThingIn, session: form.Session) -> Any:
        return await session.insert(Thing(name=thing.name))

    @form.get("/things/{thing_id}", response_model=ThingOut)
    async def read_thing(thing_id: int, session: form.Session) -> Any:
        thing = await session.get(Thing, thing_id)
        if thing is None:
            raise HTTPException(404)
        return thing


def children(form: Form) -> None:
    """A2: nothing is wrong until COMMIT, whatever the answer is made of, and whichever way the row is written."""
    answers: dict[str, Callable[[], Any]] = {
        "model": lambda: {"created": True},
        "response": lambda: JSONResponse({"created": True}, 201),
        "stream": lambda: StreamingResponse(iter(["created", "!"]), 201),
        "file": lambda: FileResponse(__file__, 201),
        "redirect": lambda: RedirectResponse("/", 303),
    }

    @form.post("/children", status_code=201)
    async def create_child(
        child: ChildIn,
        *,
        session: form.Session,
        tasks: BackgroundTasks,
        request: Request,
        answer: str = "model",
        flush: bool = True,
    ) -> Any:
        tasks.add_task(request.app.state.ran.append, child.name)
        session.session.add(Child(**child.model_dump()))
        if flush:
            await session.flush()
        return answers[answer]()


def _declarations(form: Form) -> None:
    """A3: the ways to declare the session; each inserts one row."""
    default = Depends(form.session)

    @form.post("/declared/plain", status_code=201)
    async def plain(name: str, session: form.type = default) -> None:
        await session.insert(Thing(name=name))

    @form.post("/declared/annotated", status_code=201)
    async def annotated(name: str, session: Annotated[form.type, Depends(form.session)]) -> None:
        await session.insert(Thing(name=name))

    async def insert_it(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))

    async def nothing() -> None: ...

    form.post("/declared/path-dependency", status_code=201, dependencies=[Depends(form.function(insert_it))])(nothing)
    inner = Form(form.db, form.kind, form.route)
    inner.router = type(form.router)(prefix="/declared", dependencies=[Depends(form.function(insert_it))])
    inner.post("/router-dependency", status_code=201)(nothing)
    form.router.include_router(inner.router)

    class Repository:
        def __init__(self, session: form.Session) -> None:
            self.session = Either(session)

    @form.post("/declared/class", status_code=201)
    async def of_class(name: str, repository: Annotated[Repository, Depends()]) -> None:
        await repository.session.insert(Thing(name=name))

    async def first(session: form.Session) -> Any:
        return session

    async def second(session: Annotated[Any, Depends(form.function(first))]) -> Any:
        return session

    @form.post("/declared/sub-dependency", status_code=201)
    async def below(name: str, session: Annotated[Any, Depends(form.function(second))]) -> None:
        await session.insert(Thing(name=name))


DECLARATIONS = ("plain", "annotated", "path-dependency", "router-dependency", "class", "sub-dependency")


def _failures(form: Form) -> None:
    """A4: one INSERT, and then it goes wrong with the status that is asked for."""
    _register_failures(form, "/fail", lambda handler: handler)

    async def insert_it(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))

    @form.post("/fail/request-validation", dependencies=[Depends(form.function(insert_it))])
    async def request_validation(missing: int) -> None: ...

    @form.post("/fail/unhandled")
    async def unhandled(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))
        raise RuntimeError("unhandled")

    @form.post("/fail/serialisation")
    async def serialisation(name: str, session: form.Session) -> Any:
        await session.insert(Thing(name=name))
        return {"cannot be": object}

    async def leave_in_disorder(name: str, session: form.Session) -> AsyncIterator[None]:
        await session.insert(Thing(name=name))
        yield
        raise RuntimeError("unhandled, in an exit")

    async def nothing() -> None: ...

    disorder = form.generator(leave_in_disorder)
    form.post("/fail/exit-unhandled", dependencies=[Depends(disorder, scope="function")])(nothing)
    form.post("/late-exit", dependencies=[Depends(disorder, scope="request")])(nothing)


def _committing(form: Form) -> None:
    """A4: the same on endpoints that ask for a commit on one of the statuses."""
    _register_failures(form, "/commit-on", transaction(commit_on={COMMITTED}))


def _register_failures(form: Form, path: str, decorate: Callable[[Any], Any]) -> None:
    async def insert_it(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))

    async def refuse(status: int) -> None:
        raise HTTPException(status)

    async def refuse_plainly(status: int) -> None:
        raise Refused(status)

    async def leave(status: int) -> AsyncIterator[None]:
        yield
        raise HTTPException(status)

    async def leave_plainly(status: int) -> AsyncIterator[None]:
        yield
        raise Refused(status)

    @decorate
    async def nothing() -> None: ...

    inserted = Depends(form.function(insert_it))
    for way, function in {"sub-dependency": refuse, "sub-dependency-plain": refuse_plainly}.items():
        form.post(f"{path}/{way}", dependencies=[inserted, Depends(form.function(function))])(nothing)
    for way, generator in {"exit": leave, "exit-plain": leave_plainly}.items():
        exits = Depends(form.generator(generator), scope="function")
        form.post(f"{path}/{way}", dependencies=[inserted, exits])(nothing)

    @form.post(f"{path}/http")
    @decorate
    async def http(name: str, status: int, session: form.Session) -> None:
        await session.insert(Thing(name=name))
        raise HTTPException(status)

    @form.post(f"{path}/plain")
    @decorate
    async def plain(name: str, status: int, session: form.Session) -> None:
        await session.insert(Thing(name=name))
        raise Refused(status)

    @form.post(f"{path}/returned")
    @decorate
    async def returned(name: str, status: int, session: form.Session) -> Response:
        await session.insert(Thing(name=name))
        return JSONResponse({"failed": True}, status)

    @form.post(f"{path}/injected")
    @decorate
    async def injected(name: str, status: int, session: form.Session, response: Response) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        response.status_code = status
        return {"failed": True}

    @form.post(f"{path}/validation", response_model=ThingOut)
    @decorate
    async def validation(name: str, session: form.Session) -> Any:
        await session.insert(Thing(name=name))
        return {"id": "not a number", "name": name}


Failure = Callable[[Either, str], Awaitable[Any]]
FAILURES: dict[str, Failure] = {
    "orm-flush": lambda session, name: session.insert(Thing(name=name)),
    "core": lambda session, name: session.execute(insert(Thing).values(name=name)),
    "core-many": lambda session, name: session.execute(insert(Thing), [{"name": name}, {"name": name}]),
    "unknown-table": lambda session, _name: session.execute(text("SELECT * FROM nothing")),
    "refused-by-driver": lambda session, name: session.execute(insert(Thing).values(name=f"{name}-2", number=object())),
    "refused-by-sqlalchemy": lambda session, _name: session.execute(text("SELECT :a, :b"), {"a": 1}),
}


def swallowing(form: Form) -> None:
    """A5: a statement fails and the handler acts as if nothing had happened."""

    @form.post("/swallow/{failure}")
    async def swallow(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        with suppress(Exception):
            await FAILURES[failure](session, name)
        return {"stored": True}

    @form.post("/swallow-and-go-on/{failure}")
    async def go_on(failure: str, name: str, session: form.Session) -> Response:
        await session.execute(insert(Thing).values(name=name))
        with suppress(Exception):
            await FAILURES[failure](session, name)
        with suppress(Exception):
            await session.execute(insert(Thing).values(name=f"{name}-next"))
        return JSONResponse({"stored": True})

    @form.get("/swallow-in-get/{failure}")
    async def in_get(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.execute(insert(Thing).values(name=name))
        with suppress(Exception):
            await FAILURES[failure](session, name)
        return {"stored": True}

    async def insert_both(failure: str, name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))
        with suppress(Exception):
            await FAILURES[failure](session, name)

    async def nothing() -> dict[str, bool]:
        return {"stored": True}

    form.post("/swallow-in-dependency/{failure}", dependencies=[Depends(form.function(insert_both))])(nothing)

    @form.post("/swallow-then-commit/{failure}")
    async def then_commit(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        with suppress(Exception):
            await FAILURES[failure](session, name)
        await session.commit()
        return {"stored": True}

    @form.post("/swallow-then-rollback/{failure}")
    async def then_roll_back(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        with suppress(Exception):
            await FAILURES[failure](session, name)
        await session.rollback()
        await session.insert(Thing(name=f"{name}-next"))
        return {"stored": True}


def _savepoints(form: Form) -> None:
    @form.post("/savepoint/{failure}")
    async def savepoint(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        with suppress(Exception):
            async with session.savepoint():
                await FAILURES[failure](session, name)
        return {"stored": True}

    @form.post("/savepoint-in-savepoint/{failure}")
    async def nested(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        async with session.savepoint():
            await session.insert(Thing(name=f"{name}-inner"))
            with suppress(Exception):
                async with session.savepoint():
                    await FAILURES[failure](session, name)
        return {"stored": True}

    @form.post("/savepoint-then-swallow/{failure}")
    async def then_swallow(failure: str, name: str, session: form.Session) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        async with session.savepoint():
            await session.insert(Thing(name=f"{name}-inner"))
        with suppress(Exception):
            await FAILURES[failure](session, name)
        return {"stored": True}


def _one_session(form: Form) -> None:
    """A6: every way to ask for the session, in one endpoint."""
    default = Depends(form.session)

    async def first(session: form.Session) -> Any:
        return session

    async def second(session: Annotated[Any, Depends(form.function(first), use_cache=False)]) -> Any:
        return session

    async def third(session: Annotated[Any, Depends(form.function(second))]) -> Any:
        return session

    @form.get("/one-session")
    async def one_session(
        *,
        annotated: form.Session,
        secured: Annotated[form.type, Security(form.session, scopes=["read"])],
        more_secured: Annotated[form.type, Security(form.session, scopes=["read", "write"])],
        of_function: Annotated[form.type, Depends(form.session, scope="function")],
        of_request: Annotated[form.type, Depends(form.session, scope="request")],
        uncached: Annotated[form.type, Depends(form.session, use_cache=False)],
        deep: Annotated[Any, Depends(form.function(third))],
        plain: form.type = default,
    ) -> dict[str, int]:
        asked = [annotated, secured, more_secured, of_function, of_request, uncached, deep, plain]
        connections = {await session.connection_id() for session in asked}
        return {
            "asked": len(asked),
            "sessions": len({id(session.session) for session in asked}),
            "connections": len(connections),
        }

    @form.get("/one-backend")
    async def one_backend(
        annotated: form.Session,
        uncached: Annotated[form.type, Depends(form.session, use_cache=False)],
        deep: Annotated[Any, Depends(form.function(third))],
    ) -> list[int]:
        pids = {await one.scalar(text("SELECT pg_backend_pid()")) for one in (annotated, uncached, deep)}
        return sorted(pids)


def _responses(form: Form) -> None:
    """A7: a response of every class, with every status."""
    classes: dict[str, Callable[[int], Response]] = {
        "empty": lambda status: Response(status_code=status),
        "json": lambda status: JSONResponse({}, status),
        "text": lambda status: PlainTextResponse("", status),
        "html": lambda status: HTMLResponse("", status),
        "redirect": lambda status: RedirectResponse("/", status),
        "stream": lambda status: StreamingResponse(iter(()), status),
        "file": lambda status: FileResponse(__file__, status),
    }

    @form.post("/returned/{kind}")
    async def returned(kind: str, name: str, status: int, session: form.Session) -> Response:
        await session.insert(Thing(name=name))
        return classes[kind](status)


def _mixed(form: Form) -> None:
    """A7: the session in a dependency of the one kind, below an endpoint of the other."""
    other = "async" if form.kind == "sync" else "sync"

    async def insert_it(name: str, session: form.Session) -> Thing:
        return await session.insert(Thing(name=name))

    inserted = Depends(form.function(insert_it))

    async def model(thing: Annotated[Any, inserted]) -> Any:
        return thing

    async def returned(status: int, _thing: Annotated[Any, inserted]) -> Response:
        return JSONResponse({}, status)

    async def raised(status: int, _thing: Annotated[Any, inserted]) -> None:
        raise HTTPException(status)

    async def forgiven(_thing: Annotated[Any, inserted]) -> None:
        raise Forgiven

    for endpoint in (returned, raised, forgiven):
        form.router.post(f"/mixed/{endpoint.__name__}")(form.function(endpoint, kind=other))
    form.router.post("/mixed/model", response_model=ThingOut)(form.function(model, kind=other))


def _raising(form: Form) -> None:
    """A7: exceptions whose handlers answer as if nothing had happened."""
    exceptions: dict[str, Callable[[], Exception]] = {
        "forgiven": Forgiven,
        "unforeseen": Unforeseen,
        "status-handler": lambda: HTTPException(410),
        "http-200": lambda: HTTPException(200),
        "http-303": lambda: HTTPException(303, headers={"Location": "/"}),
    }

    @form.post("/raise/endpoint/{what}")
    async def endpoint(what: str, name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))
        raise exceptions[what]()

    async def insert_it(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=name))

    async def refuse(what: str) -> None:
        raise exceptions[what]()

    async def leave(what: str) -> AsyncIterator[None]:
        yield
        raise exceptions[what]()

    async def nothing() -> None: ...

    inserted = Depends(form.function(insert_it))
    refused = Depends(form.function(refuse))
    left = Depends(form.generator(leave), scope="function")
    form.post("/raise/sub-dependency/{what}", dependencies=[inserted, refused])(nothing)
    form.post("/raise/exit/{what}", dependencies=[inserted, left])(nothing)


def accounts(form: Form) -> None:
    """A8: whatever the database refuses."""

    @form.post("/accounts", status_code=201)
    async def create_account(values: dict[str, Any], session: form.Session) -> dict[str, bool]:
        await session.execute(insert(Account).values({"required": "yes", **values}))
        return {"created": True}

    @form.post("/accounts/at-commit", status_code=201)
    async def create_at_commit(values: dict[str, Any], session: form.Session) -> Response:
        session.session.add(Account(**{"required": "yes", **values}))
        return JSONResponse({"created": True}, 201)

    @form.post("/accounts/raise/{state}")
    async def raise_in_the_database(state: str, session: form.Session, message: str = "nothing") -> None:
        """Have PostgreSQL raise an error of any SQLSTATE and message."""
        command = f"RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = '{message}'"
        await session.execute(text(f"DO $$ BEGIN {command}; END $$"))


def _explicit(form: Form) -> None:
    """A11: the session's own methods."""

    @form.post("/explicit/{step}/gated")
    async def gated(step: str, name: str, session: form.Session, request: Request) -> dict[str, bool]:
        await session.insert(Thing(name=name))
        if step == "commit":
            await session.commit()
        gate = request.app.state.gates[name]
        gate.reached.set()
        await form.wait(gate.opened)
        return {"stored": True}

    @form.post("/explicit/commit-then/{status}")
    async def commit_then(status: int, name: str, session: form.Session, returned: bool = False) -> Any:
        await session.insert(Thing(name=f"{name}-kept"))
        await session.commit()
        await session.insert(Thing(name=f"{name}-later"))
        if returned or status < 400:
            return JSONResponse({}, status)
        raise HTTPException(status)

    @form.post("/explicit/commit-twice")
    async def commit_twice(name: str, session: form.Session) -> None:
        for number in (1, 2):
            await session.insert(Thing(name=f"{name}-{number}"))
            await session.commit()
        raise RuntimeError("after two commits")

    @form.post("/explicit/rollback")
    async def roll_back(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=f"{name}-undone"))
        await session.rollback()
        await session.insert(Thing(name=f"{name}-kept"))

    @form.post("/explicit/close")
    async def close(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=f"{name}-undone"))
        await session.close()
        await session.insert(Thing(name=f"{name}-kept"))

    @form.post("/explicit/close-last")
    async def close_last(name: str, session: form.Session) -> None:
        await session.insert(Thing(name=f"{name}-undone"))
        await session.close()

    @form.post("/explicit/flush")
    async def flush(name: str, session: form.Session) -> dict[str, Any]:
        thing = Thing(name=name)
        session.session.add(thing)
        before = thing.id
        await session.flush()
        return {"before": before, "after": thing.id}

    @form.post("/explicit/refresh")
    async def refresh(name: str, session: form.Session) -> dict[str, Any]:
        thing = await session.insert(Thing(name=name, number=1))
        await session.execute(
            update(Thing).where(Thing.name == name).values(number=2), execution_options={"synchronize_session": False}
        )
        before = thing.number
        await session.refresh(thing)
        return {"before": before, "after": thing.number}

    @form.post("/explicit/refresh-after-commit")
    async def refresh_after_commit(name: str, session: form.Session) -> dict[str, Any]:
        thing = await session.insert(Thing(name=name, number=1))
        await session.commit()
        await session.refresh(thing)
        return {"id": thing.id, "name": thing.name, "number": thing.number}

    @form.post("/explicit/expunge")
    async def expunge(name: str, session: form.Session) -> dict[str, Any]:
        new, kept = Thing(name=f"{name}-new"), Thing(name=f"{name}-kept", number=1)
        session.session.add_all([new, kept])
        session.session.expunge(new)
        await session.flush()
        session.session.expunge(kept)
        kept.number = 2  # nobody watches it any more
        found = await session.scalar(select(Thing.number).where(Thing.name == kept.name))
        return {"number": kept.number, "in database": found}


_GROUPS = (
    _things,
    children,
    _declarations,
    _failures,
    _committing,
    swallowing,
    _savepoints,
    _one_session,
    _responses,
    _raising,
    _mixed,
    accounts,
    _explicit,
)
