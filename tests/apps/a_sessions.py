"""The endpoints of A5, A6 and A11: what is done with the session."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.responses import JSONResponse
from sqlalchemy import insert, select, text, update

from apps.a_forms import Either, Form
from apps.a_model import Thing

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


def savepoints(form: Form) -> None:
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


def one_session(form: Form) -> None:
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


def explicit(form: Form) -> None:
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
