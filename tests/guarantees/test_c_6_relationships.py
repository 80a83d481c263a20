"""C6: what a response model reads of ORM objects is loaded, one statement per relationship, and never made up."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import fastapi
import pytest
from fastapi import FastAPI
from fastapi.exceptions import ResponseValidationError
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import AliasPath, BaseModel, Field, RootModel
from sqlalchemy import Select, event, insert, select
from sqlalchemy.orm import (
    ORMExecuteState,
    Session,
    joinedload,
    raiseload,
    selectinload,
    subqueryload,
    with_loader_criteria,
)
from sqlalchemy.sql.base import ExecutableOption

from apps.c_cases import EVERY_DRIVER, Kind, endpoint, opened, recorded, work
from apps.c_library import (
    Author,
    AuthorCollections,
    AuthorFirst,
    AuthorNever,
    AuthorOut,
    AuthorTitles,
    Base,
    Book,
    BossOut,
    Chapter,
    ChapterOut,
    Editor,
    Employee,
    EmployeeOut,
    Manager,
    Node,
    NodeOut,
    NodeUp,
    Note,
    NoteUp,
    Out,
    Profile,
    Publisher,
    StaffOut,
    Tag,
    TagWithBooks,
    book_tags,
)
from fastapi_database import Database, DatabaseRoute
from fastapi_database.core.relations import CHUNK

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Reading:
    """A statement without any option, what SQLAlchemy has to load what the model reads, and how many relationships."""

    statement: Select[Any]
    eager: Sequence[ExecutableOption]
    relationships: int


OF_AUTHORS, OF_EMPLOYEES = select(Author).order_by(Author.id), select(Employee).order_by(Employee.id)
READINGS: dict[type[Out], Reading] = {
    AuthorOut: Reading(
        OF_AUTHORS,
        [
            selectinload(Author.publisher),
            selectinload(Author.profile),
            selectinload(Author.books).selectinload(Book.tags),
            selectinload(Author.books).selectinload(Book.chapters).selectinload(Chapter.notes),
        ],
        6,
    ),
    NoteUp: Reading(
        select(Note).order_by(Note.id),
        [
            selectinload(Note.chapter)
            .selectinload(Chapter.book)
            .selectinload(Book.author)
            .selectinload(Author.publisher)
        ],
        4,
    ),
    TagWithBooks: Reading(
        select(Tag).order_by(Tag.id),
        [selectinload(Tag.books).selectinload(Book.author).selectinload(Author.publisher)],
        3,
    ),
    AuthorFirst: Reading(OF_AUTHORS, [selectinload(Author.first_books)], 1),
    AuthorCollections: Reading(OF_AUTHORS, [selectinload(Author.books_by_title), selectinload(Author.book_set)], 2),
    ChapterOut: Reading(select(Chapter).order_by(Chapter.book_id, Chapter.number), [selectinload(Chapter.notes)], 1),
    EmployeeOut: Reading(OF_EMPLOYEES, [selectinload(Employee.publisher)], 1),
    StaffOut: Reading(OF_EMPLOYEES, [selectinload(Employee.staff).selectinload(Employee.publisher)], 2),
}
RECURSIVE = {
    NodeOut: select(Node).where(Node.parent_id.is_(None)).order_by(Node.id),
    NodeUp: select(Node).order_by(Node.id),
}
IN_ANY_ORDER = {"tags", "book_set"}  # relationships without order_by; TagWithBooks sorts its books below


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return opened(request, Base)


@dataclasses.dataclass
class Served:
    db: Database
    client: TestClient


@pytest.fixture
def served(case: tuple[Kind, Database]) -> Iterator[Served]:
    kind, db = case
    routes = {model: reading.statement for model, reading in READINGS.items()} | RECURSIVE
    with serving(
        kind,
        db,
        {f"/{model.__name__}": (all_of(one), list[model]) for model, one in routes.items()},  # type: ignore[valid-type]
    ) as client:
        yield Served(db, client)


def test_c6_an_answer_equals_eager_loading_with_one_statement_per_relationship(served: Served) -> None:
    equals_eager_loading(served, per_relationship=1)


@pytest.mark.parametrize("case", [("sync", "sqlite"), ("async", "sqlite")], indirect=True, ids="-".join)
def test_c6_with_session_hooks_it_is_equal_too_and_three_statements_per_relationship(served: Served) -> None:
    """An application's `do_orm_execute` must see what SQLAlchemy would send, so SQLAlchemy sends it."""
    with hook(lambda _: None):
        equals_eager_loading(served, per_relationship=3)


def equals_eager_loading(served: Served, *, per_relationship: int) -> None:
    examples = 20 if served.db.engine.dialect.name == "sqlite" else 5

    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate])
    @given(library=libraries)
    def check(library: Library) -> None:
        refill(served.db, library)
        for model, reading in READINGS.items():
            with recorded() as statements:
                answer = served.client.get(f"/{model.__name__}")
            expected = as_sqlalchemy_loads(served.db, model, reading.statement.options(*reading.eager))
            assert (answer.status_code, ordered(answer.json())) == (200, ordered(expected)), model
            assert len(statements) <= 1 + per_relationship * reading.relationships, (model, statements)
        for model, statement in RECURSIVE.items():
            with recorded() as statements:
                answer = served.client.get(f"/{model.__name__}")
            assert answer.json() == as_sqlalchemy_loads(served.db, model, statement), model
            assert len(statements) <= 1 + per_relationship * library.depth(), (model, statements)

    check()


@pytest.mark.parametrize(
    "case",
    [("sync", "sqlite"), ("sync", "postgresql+psycopg"), ("async", "postgresql+asyncpg")],
    indirect=True,
    ids="-".join,
)
def test_c6_more_parents_than_one_statement_takes(case: tuple[Kind, Database]) -> None:
    kind, db = case
    parents = CHUNK + 1
    with db.engine.begin() as connection:
        connection.execute(insert(Author), {"id": 1})
        books = [{"id": n, "title": str(n), "author_id": 1} for n in range(1, parents + 1)]
        connection.execute(insert(Book), books)
        connection.execute(insert(Chapter), [{"book_id": n, "number": 1} for n in range(1, parents + 1)])
        notes = [{"id": n, "book_id": n, "chapter_number": 1} for n in range(1, parents + 1)]
        connection.execute(insert(Note), notes)
    of_books = select(Book).order_by(Book.id)
    with serving(kind, db, {"/": (all_of(of_books), list[BookWithChapters])}) as client, recorded() as statements:
        answer = client.get("/")
    expected = [{"id": n, "chapters": [{"number": 1, "notes": [{"id": n}]}]} for n in range(1, parents + 1)]
    assert answer.json() == expected
    # CHUNK keys of one column at a time, half as many of two.
    assert len(statements) <= 1 + 2 + 3


class BookWithChapters(Out):
    id: int
    chapters: list[ChapterOut]


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
@pytest.mark.parametrize("where", ["mapping", "query", "wildcard"])
def test_c6_a_relationship_that_may_not_load_fails_and_is_never_empty(
    kind: Kind, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = small_library()
    options = {"mapping": [], "query": [raiseload(Author.books)], "wildcard": [raiseload("*")]}
    statement = OF_AUTHORS.options(*options[where])
    model, name = (AuthorNever, "never") if where == "mapping" else (AuthorTitles, "books")
    routes = {"/": (all_of(statement), list[model])}  # type: ignore[valid-type]
    with serving(kind, db, routes) as client:
        said = refused(client, caplog)
    assert f"'Author.{name}' is not available due to lazy='raise'" in said
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


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_objects_in_a_circle_are_the_clear_error_they_are_without_us(kind: Kind) -> None:
    db = small_library()
    with db.begin() as session:
        session.add_all([Employee(id=1), Employee(id=2, boss_id=1)])
        session.flush()
        session.get_one(Employee, 1).boss_id = 2
    with (
        serving(kind, db, {"/": (all_of(OF_EMPLOYEES), list[BossOut])}) as client,
        pytest.raises(ResponseValidationError, match="cyclic reference"),
    ):
        client.get("/")
    db.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c6_an_object_of_an_ended_unit_fails_and_is_never_empty(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    db = small_library()
    kept = work(db, kind, all_of(OF_AUTHORS))
    with serving(kind, db, {"/": (lambda _: kept, list[AuthorTitles])}) as client:
        assert re.search(r"unit-ended|not bound to a Session", refused(client, caplog))
    db.close()


def test_c6_on_a_plain_router_an_unloaded_relationship_of_an_async_session_is_a_clear_error(
    request: pytest.FixtureRequest, async_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = small_library(async_url)
    with (
        serving("async", db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}, plain=True) as client,
        pytest.raises(ResponseValidationError) as caught,
    ):
        client.get("/")
    said = str(caught.value)
    for part in ("LoadOutsideSession", '"GET /"', "'books'", "selectinload", "load-outside-session"):
        assert part in said
    with serving(
        "async", db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}, plain=True, raise_server_exceptions=False
    ) as client:
        answer = client.get("/")
    assert (answer.status_code, "[]" in answer.text) == (500, False)
    db.close()


@pytest.mark.parametrize("backend", ["sqlite_url", "postgresql_url"])
def test_c6_on_a_plain_router_a_sync_session_loads_as_it_always_did(
    request: pytest.FixtureRequest, backend: str
) -> None:
    db = small_library(request.getfixturevalue(backend))
    with serving("sync", db, {"/": (all_of(OF_AUTHORS), list[AuthorTitles])}, plain=True) as client:
        assert client.get("/").json() == TITLES
    db.close()


@dataclasses.dataclass
class Library:
    """What Hypothesis makes up: numbers that stand for parents, 0 for none."""

    publishers: int
    authors: list[tuple[int, bool]]
    books: list[tuple[int, int, tuple[int, ...]]]
    chapters: list[tuple[int, int]]
    notes: list[int]
    nodes: list[int]
    employees: list[tuple[type[Employee], int, int]]

    def parent_of_node(self, number: int) -> int | None:
        back = self.nodes[number - 1]
        return number - back if 0 < back < number else None

    def depth(self) -> int:
        depths: dict[int | None, int] = {None: 0}
        for number in range(1, len(self.nodes) + 1):
            depths[number] = depths[self.parent_of_node(number)] + 1
        return max(depths.values())


libraries = st.builds(
    Library,
    publishers=st.integers(0, 3),
    authors=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=5),
    books=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1990, 1993), st.sets(st.integers(1, 3)).map(tuple)), max_size=8
    ),
    chapters=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 3)), unique=True, max_size=8),
    notes=st.lists(st.integers(0, 8), max_size=6),
    nodes=st.lists(st.integers(0, 4), max_size=9),
    employees=st.lists(
        st.tuples(st.sampled_from([Employee, Manager, Editor]), st.integers(0, 3), st.integers(0, 5)), max_size=6
    ),
)


def refill(db: Database, library: Library) -> None:
    """Replace all rows, without the help of what is tested."""
    with db.engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())

    def one_of(number: int, many: Sequence[object] | int) -> int | None:
        count = many if isinstance(many, int) else len(many)
        return number if 0 < number <= count else None

    with Session(db.engine) as session, session.begin():
        session.add_all(Publisher(id=n + 1, name=f"p{n}") for n in range(library.publishers))
        session.add_all(Tag(id=n, name=f"t{n}") for n in (1, 2, 3))
        session.flush()
        for n, (publisher, profile) in enumerate(library.authors, 1):
            session.add(Author(id=n, name=f"a{n}", publisher_id=one_of(publisher, library.publishers)))
            if profile:
                session.add(Profile(id=n, author_id=n, text=f"profile {n}"))
        session.flush()
        books = [(n, *book) for n, book in enumerate(library.books, 1) if one_of(book[0], library.authors)]
        session.add_all(Book(id=n, title=f"b{n}", year=year, author_id=author) for n, author, year, _ in books)
        session.flush()
        known = {n for n, *_ in books}
        for n, _, _, tags in books:
            for tag in tags:
                session.execute(insert(book_tags).values(book_id=n, tag_id=tag))
        chapters = [chapter for chapter in library.chapters if chapter[0] in known]
        session.add_all(Chapter(book_id=book, number=number) for book, number in chapters)
        session.flush()
        for n, number in enumerate(library.notes, 1):
            book, chapter = chapters[number - 1] if one_of(number, chapters) else (None, None)
            session.add(Note(id=n, book_id=book, chapter_number=chapter))
        for n in range(1, len(library.nodes) + 1):
            session.add(Node(id=n, parent_id=library.parent_of_node(n)))
            session.flush()
        for n, (kind, publisher, boss) in enumerate(library.employees, 1):
            boss_id = boss if 0 < boss < n else None
            session.add(kind(id=n, publisher_id=one_of(publisher, library.publishers), boss_id=boss_id))
            session.flush()


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


def refused(client: TestClient, caplog: pytest.LogCaptureFixture) -> str:
    """Get an answer that must be an error, and give what was said about it: raised as FastAPI does, or logged by us."""
    try:
        answer = client.get("/")
    except ResponseValidationError as error:
        return str(error)
    assert answer.status_code == 500
    assert "[]" not in answer.text
    return caplog.text


def all_of(statement: Select[Any]) -> Callable[[Session], Any]:
    return lambda session: session.scalars(statement).all()


def as_sqlalchemy_loads(db: Database, model: type[BaseModel], statement: Select[Any]) -> Any:
    """Give what SQLAlchemy's own session and Pydantic make of it."""
    with Session(db.engine) as session:
        rows = session.scalars(statement).unique().all()
        return [model.model_validate(row, from_attributes=True).model_dump(mode="json") for row in rows]


def ordered(value: Any, name: str = "") -> Any:
    """Sort the lists that no `order_by` sorts."""
    if isinstance(value, dict):
        found = {key: ordered(inner, key) for key, inner in value.items()}
        if "name" in found and "books" in found:  # TagWithBooks
            found["books"] = sorted(found["books"], key=str)
        return found
    if isinstance(value, list):
        inner = [ordered(one) for one in value]
        return sorted(inner, key=str) if name in IN_ANY_ORDER else inner
    return value


@contextmanager
def hook(function: Callable[[ORMExecuteState], None]) -> Iterator[None]:
    event.listen(Session, "do_orm_execute", function)
    try:
        yield
    finally:
        event.remove(Session, "do_orm_execute", function)
