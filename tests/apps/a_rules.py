"""The endpoints of A7 and A8: what decides, and what the database refuses."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Response
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from sqlalchemy import insert, text

from apps.a_answers import Forgiven, ThingOut, Unforeseen
from apps.a_forms import Form
from apps.a_model import Account, Thing


def responses(form: Form) -> None:
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


def mixed(form: Form) -> None:
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


def raising(form: Form) -> None:
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
