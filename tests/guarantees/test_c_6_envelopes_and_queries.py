"""C6: what is loaded is found wherever the response model has it, and the options and hooks of the query hold."""

import dataclasses
from typing import Any, Generic, TypeVar

import pytest
from pydantic import AliasPath, BaseModel, Field, RootModel
from sqlalchemy import select
from sqlalchemy.orm import ORMExecuteState, Session, joinedload, selectinload, subqueryload, with_loader_criteria

from apps.c_cases import Kind, recorded
from apps.c_library import Author, AuthorOut, AuthorTitles, Book, Out
from apps.c_relationships import OF_AUTHORS, TITLES, all_of, as_sqlalchemy_loads, hook, serving, small_library

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


@dataclasses.dataclass
class Envelope:
    items: list[AuthorTitles]


class Flat(Out):
    title: str
    author_name: str = Field(validation_alias=AliasPath("author", "name"))


ENVELOPES: dict[str, tuple[Any, Any, Any]] = {
    # what the endpoint makes of a list of authors, its response model, and what the list is in the answer
    "generic page": (lambda rows: {"items": rows, "total": 2}, Page[AuthorTitles], lambda body: body["items"]),
    "dataclass": (lambda rows: {"items": rows}, Envelope, lambda body: body["items"]),
    "dictionary": (
        lambda rows: {str(row.id): row for row in rows},
        dict[str, AuthorTitles],
        lambda body: list(body.values()),
    ),
    "root model": (lambda rows: rows, RootModel[list[AuthorTitles]], lambda body: body),
    "tuple": (tuple, tuple[AuthorTitles, ...], lambda body: body),
    "nested lists": (lambda rows: [rows], list[list[AuthorTitles]], lambda body: body[0]),
    "optional": (lambda rows: rows, list[AuthorTitles | None] | None, lambda body: body),
}


@pytest.mark.parametrize("envelope", ENVELOPES)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_objects_are_found_wherever_the_response_model_has_them(kind: Kind, envelope: str) -> None:
    make, model, unwrap = ENVELOPES[envelope]
    db = small_library()
    with (
        serving(kind, db, {"/": (lambda session: make(session.scalars(OF_AUTHORS).all()), model)}) as client,
        recorded() as statements,
    ):
        answer = client.get("/")
    assert unwrap(answer.json()) == TITLES
    assert len(statements) == 2
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_a_flattening_alias_reads_its_relationship_once(kind: Kind) -> None:
    db = small_library()
    with (
        serving(kind, db, {"/": (all_of(select(Book).order_by(Book.id)), list[Flat])}) as client,
        recorded() as statements,
    ):
        answer = client.get("/")
    assert [row["author_name"] for row in answer.json()] == ["a", "a", "b", "b"]
    assert len(statements) == 2
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("loader", [selectinload, joinedload, subqueryload])
def test_c6_what_the_query_loaded_eagerly_is_taken_and_the_rest_is_loaded(kind: Kind, loader: Any) -> None:
    db = small_library()
    half = OF_AUTHORS.options(loader(Author.books))
    routes = {"/": (lambda session: session.scalars(half).unique().all(), list[AuthorOut])}
    with serving(kind, db, routes) as client, recorded() as statements:
        answer = client.get("/")
    full = OF_AUTHORS.options(loader(Author.books).selectinload(Book.tags))
    assert answer.json() == as_sqlalchemy_loads(db, AuthorOut, full)
    by_query = 1 if loader is joinedload else 2
    # publisher, profile, tags and chapters; there are no chapters, so their notes cost nothing.
    assert len(statements) <= by_query + 4
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_criteria_of_the_query_hold_for_what_is_loaded_after_it(kind: Kind) -> None:
    """`with_loader_criteria` in a query goes with its objects: a tenant must not see what another one has."""
    db = small_library()
    visible = OF_AUTHORS.options(with_loader_criteria(Book, Book.visible.is_(True)))
    with serving(kind, db, {"/": (all_of(visible), list[AuthorTitles])}) as client:
        assert client.get("/").json() == as_sqlalchemy_loads(db, AuthorTitles, visible)
        assert [len(author["books"]) for author in client.get("/").json()] == [1, 1]
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_criteria_of_a_session_hook_hold_for_what_is_loaded(kind: Kind) -> None:
    db = small_library()

    def only_visible(state: ORMExecuteState) -> None:
        if state.is_select and not state.is_column_load and not state.is_relationship_load:
            state.statement = state.statement.options(with_loader_criteria(Book, Book.visible.is_(True)))

    with hook(only_visible), serving(kind, db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}) as client:
        assert [len(author["books"]) for author in client.get("/").json()] == [1, 1]
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_a_hook_that_hides_parents_does_not_empty_their_collections(kind: Kind) -> None:
    """Soft delete with an opt-out: the parents are hidden from everybody who does not ask for them."""
    db = small_library()
    with db.begin() as session:
        for author in session.scalars(select(Author)):
            author.hidden = True

    def without_hidden(state: ORMExecuteState) -> None:
        first = state.is_select and not state.is_column_load and not state.is_relationship_load
        if first and not state.execution_options.get("include_hidden"):
            criteria = with_loader_criteria(Author, Author.hidden.is_(False), include_aliases=True)
            state.statement = state.statement.options(criteria)

    def everybody(session: Session) -> Any:
        return session.scalars(OF_AUTHORS, execution_options={"include_hidden": True}).all()

    with hook(without_hidden), serving(kind, db, {"/": (everybody, list[AuthorTitles])}) as client:
        assert client.get("/").json() == TITLES
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_a_pending_child_is_answered_once(kind: Kind) -> None:
    """`Book(author=…)` waits in the unloaded collection of its author until that is loaded."""
    db = small_library()

    def write_another(session: Session) -> Any:
        authors = session.scalars(OF_AUTHORS).all()
        session.add(Book(title="new", author=authors[0]))
        return authors

    with serving(kind, db, {"/": (write_another, list[AuthorTitles])}, method="POST") as client:
        body = client.post("/").json()
    assert [book["title"] for book in body[0]["books"]] == ["a1", "a2", "new"]
    assert body[1] == TITLES[1]
    db.close()
