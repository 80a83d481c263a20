"""``db.install(app)``: everything an application needs, in one call and in any order."""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.types import Lifespan

from fastapi_database.core.limits import workers
from fastapi_database.core.resources import Resources
from fastapi_database.errors import AlreadyInstalled, InstalledTooLate
from fastapi_database.web import internals, problems
from fastapi_database.web.checks import check
from fastapi_database.web.middleware import DatabaseMiddleware
from fastapi_database.web.route import DatabaseRoute, end_unit


def install(resources: Resources, app: FastAPI) -> None:
    """Wire a database into an application; see :meth:`Database.install`."""
    installation = _installation(app)
    if installation is not None and resources in installation.databases:
        raise AlreadyInstalled(
            f"{resources.dialect.describe()} is installed in this application already; once is enough"
        )
    if internals.has_started(app):
        raise InstalledTooLate(
            "db.install(app) came after the application had started, when nothing can be added any more; call it where "
            "the application is made"
        )
    if installation is None:
        installation = _prepare(app)
    installation.databases.add(resources)
    app.router.lifespan_context = _lifespan(installation, resources, app.router.lifespan_context)


def _prepare(app: FastAPI) -> Installation:
    """Add what an application needs once, however many databases are installed in it."""
    installation = Installation(app)
    problems.add_handlers(app)
    # Appended: innermost of all middleware, whatever is added later (add_middleware inserts in front).
    app.user_middleware.append(Middleware(DatabaseMiddleware, installation=installation))
    if app.router.route_class is APIRoute:
        app.router.route_class = DatabaseRoute
        internals.rebuild_routes(app, DatabaseRoute)
    return installation


def _lifespan(installation: Installation, resources: Resources, original: Lifespan[Any]) -> Lifespan[Any]:
    """Put the life of a database around the application's own, which may use it at both ends."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any]:
        installation.start()
        try:
            async with original(app) as state:
                resources.serving = True
                look = asyncio.create_task(resources.look_at_limits(processes=workers(sys.argv, os.environ)))
                try:
                    yield state
                finally:
                    resources.serving = False
                    look.cancel()
                    await asyncio.wait({look})
        finally:
            await resources.pause()

    return lifespan


class Installation:
    """What is installed in one application; found again through its middleware."""

    def __init__(self, app: FastAPI) -> None:
        self._app = weakref.ref(app)
        self.databases: set[Resources] = set()
        self._checked = False

    def serve(self) -> None:
        """Note that requests are being answered: from now on a sync session on the event loop is refused."""
        for resources in self.databases:
            resources.serving = True

    def start(self) -> None:
        """Look at every route once all are there: at the start of the lifespan, or at the first request without one."""
        app = self._app()
        if app is None or self._checked:
            return
        for inner in internals.mounted_applications(app):
            if not internals.has_started(inner):
                problems.add_handlers(inner)  # a mounted application answers its own errors
        for route in internals.declared_routes(app):
            check(route)
            if route.streams:  # on our own routers the endpoint brings it along
                internals.add_last_dependency(route.dependant, end_unit)
        self._checked = True


def _installation(app: FastAPI) -> Installation | None:
    for middleware in app.user_middleware:
        found = middleware.kwargs.get("installation")
        if isinstance(found, Installation):
            return found
    return None
