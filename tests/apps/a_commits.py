"""The endpoints of A1 to A4: what is stored, and when."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel

from apps.a_answers import Refused, ThingIn, ThingOut
from apps.a_forms import Either, Form
from apps.a_model import Child, Thing
from fastapi_database import transaction

COMMITTED = 409


class ChildIn(BaseModel):
    name: str
    parent_id: int | None = None
    seat: int | None = None


def things(form: Form) -> None:
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


def declarations(form: Form) -> None:
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


def failures(form: Form) -> None:
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


def committing(form: Form) -> None:
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
