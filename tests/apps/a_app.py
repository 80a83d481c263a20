"""The application that shows A1 to A8 and A11: every endpoint in every form, under /sync/database, /async/plain, …

`create` is a factory: uvicorn calls it (`--factory`; the database is named by DATABASE_URL), and so do tests that look
at the messages of the application from the same process.
"""

import asyncio
import threading
from collections import defaultdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from apps import a_commits, a_rules, a_sessions
from apps.a_answers import Forgiven, Refused, Unforeseen
from apps.a_forms import PATIENCE, forms
from apps.a_model import Base, Parent
from fastapi_database import Database

PARENT = 1
GROUPS = (
    a_commits.things,
    a_commits.children,
    a_commits.declarations,
    a_commits.failures,
    a_commits.committing,
    a_sessions.swallowing,
    a_sessions.savepoints,
    a_sessions.one_session,
    a_rules.responses,
    a_rules.raising,
    a_rules.mixed,
    a_rules.accounts,
    a_sessions.explicit,
)


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
    for register in GROUPS:  # the busiest endpoints first: FastAPI tries one route after the other
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
