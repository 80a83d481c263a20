"""Applications that answer with objects of the library, and what SQLAlchemy and Pydantic alone would answer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import fastapi
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.orm import ORMExecuteState, Session

from apps.c_cases import Kind, endpoint, listening
from apps.c_library import Author, Base, Book, Employee
from fastapi_database import Database, DatabaseRoute

OF_AUTHORS, OF_EMPLOYEES = select(Author).order_by(Author.id), select(Employee).order_by(Employee.id)
TITLES = [
    {"id": 1, "books": [{"title": "a1"}, {"title": "a2"}]},
    {"id": 2, "books": [{"title": "b1"}, {"title": "b2"}]},
]


def small_library(url: str = "sqlite://") -> Database:
    """Two authors with two books each, one of them visible."""
    db = Database(url, models=Base)
    db.create_all()
    with db.begin() as session:
        for number, name in enumerate("ab", 1):
            books = [Book(title=f"{name}{n}", visible=n == 1) for n in (1, 2)]
            session.add(Author(id=number, name=name, books=books))
    return db


@contextmanager
def serving(
    kind: Kind,
    db: Database,
    routes: Mapping[str, tuple[Callable[[Session], Any], Any]],
    *,
    plain: bool = False,
    method: str = "GET",
    **options: Any,
) -> Iterator[TestClient]:
    """Serve functions of a session, each with its response model; without the lifespan, which would close memory."""
    app = FastAPI()
    db.install(app)
    router = fastapi.APIRouter(route_class=APIRoute) if plain else fastapi.APIRouter(route_class=DatabaseRoute)
    for path, (function, model) in routes.items():
        router.add_api_route(path, endpoint(db, kind, function), methods=[method], response_model=model)
    app.include_router(router)
    with TestClient(app, **options) as client:
        yield client


def all_of(statement: Select[Any]) -> Callable[[Session], Any]:
    return lambda session: session.scalars(statement).all()


def as_sqlalchemy_loads(db: Database, model: type[BaseModel], statement: Select[Any]) -> Any:
    """Give what SQLAlchemy's own session and Pydantic make of it."""
    with Session(db.engine) as session:
        rows = session.scalars(statement).unique().all()
        return [model.model_validate(row, from_attributes=True).model_dump(mode="json") for row in rows]


def hook(function: Callable[[ORMExecuteState], None]) -> AbstractContextManager[None]:
    """Have a function see every statement of every session, for as long as the block lasts."""
    return listening(Session, "do_orm_execute", function)
