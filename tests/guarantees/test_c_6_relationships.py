"""C6: what a response model reads of ORM objects is loaded, one statement per relationship, as eager loading would."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.sql.base import ExecutableOption

from apps.c_cases import EVERY_DRIVER, Kind, opened, recorded
from apps.c_library import (
    Author,
    AuthorCollections,
    AuthorFirst,
    AuthorOut,
    Base,
    Book,
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
from apps.c_relationships import OF_AUTHORS, OF_EMPLOYEES, all_of, as_sqlalchemy_loads, hook, serving
from fastapi_database import Database
from fastapi_database.core.relations import CHUNK


@dataclasses.dataclass(frozen=True)
class Reading:
    """A statement without any option, what SQLAlchemy has to load what the model reads, and how many relationships."""

    statement: Select[Any]
    eager: Sequence[ExecutableOption]
    relationships: int


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
