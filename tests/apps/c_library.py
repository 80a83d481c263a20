"""Every kind of relationship that a response model may read, and the response models that read them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Table, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column, relationship
from sqlalchemy.orm.collections import attribute_keyed_dict


class Base(DeclarativeBase):
    pass


book_tags = Table(
    "book_tags",
    Base.metadata,
    Column("book_id", ForeignKey("books.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Publisher(Base):
    __tablename__ = "publishers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    hidden: Mapped[bool] = mapped_column(default=False)
    publisher_id: Mapped[int | None] = mapped_column(ForeignKey("publishers.id"))
    publisher: Mapped[Publisher | None] = relationship()
    profile: Mapped[Profile | None] = relationship(back_populates="author", uselist=False)
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.year.desc(), Book.id")
    books_by_title: Mapped[dict[str, Book]] = relationship(
        collection_class=attribute_keyed_dict("title"), viewonly=True
    )
    book_set: Mapped[set[Book]] = relationship(viewonly=True)
    never: Mapped[list[Book]] = relationship(lazy="raise", viewonly=True)


class Profile(Base):
    __tablename__ = "profiles"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"), unique=True)
    text: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="profile")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    year: Mapped[int] = mapped_column(default=2000)
    visible: Mapped[bool] = mapped_column(default=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")
    tags: Mapped[list[Tag]] = relationship(secondary=book_tags, back_populates="books")
    chapters: Mapped[list[Chapter]] = relationship(back_populates="book", order_by="Chapter.number")


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(secondary=book_tags, back_populates="tags")


class Chapter(Base):
    """Its key has two columns."""

    __tablename__ = "chapters"
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    book: Mapped[Book] = relationship(back_populates="chapters")
    notes: Mapped[list[Note]] = relationship(back_populates="chapter", order_by="Note.id")


class Note(Base):
    __tablename__ = "notes"
    __table_args__ = (ForeignKeyConstraint(["book_id", "chapter_number"], ["chapters.book_id", "chapters.number"]),)
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int | None]
    chapter_number: Mapped[int | None]
    chapter: Mapped[Chapter | None] = relationship(back_populates="notes")


class Node(Base):
    """A tree: the relationship leads to its own table."""

    __tablename__ = "nodes"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    parent: Mapped[Node | None] = relationship(back_populates="children", remote_side="Node.id")
    children: Mapped[list[Node]] = relationship(back_populates="parent", order_by="Node.id")


class Employee(Base):
    __tablename__ = "employees"
    __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    hidden: Mapped[bool] = mapped_column(default=False)
    publisher_id: Mapped[int | None] = mapped_column(ForeignKey("publishers.id"))
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("employees.id"))
    publisher: Mapped[Publisher | None] = relationship()
    boss: Mapped[Employee | None] = relationship(back_populates="staff", remote_side="Employee.id")
    staff: Mapped[list[Employee]] = relationship(back_populates="boss", order_by="Employee.id")


class Manager(Employee):
    """Joined-table inheritance."""

    __tablename__ = "managers"
    __mapper_args__: ClassVar = {"polymorphic_identity": "manager"}
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    car: Mapped[str | None]


class Editor(Employee):
    """Single-table inheritance."""

    __mapper_args__: ClassVar = {"polymorphic_identity": "editor"}


# "Row-limited relationships with window functions" of SQLAlchemy's documentation.
_ranked = select(Book, func.row_number().over(order_by=Book.id, partition_by=Book.author_id).label("place")).subquery()
FirstBook = aliased(Book, _ranked)
Author.first_books = relationship(  # type: ignore[attr-defined]
    FirstBook,
    primaryjoin=(FirstBook.author_id == Author.id) & (_ranked.c.place <= 2),
    order_by=FirstBook.id,
    viewonly=True,
)


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class PublisherOut(Out):
    name: str


class TagOut(Out):
    name: str


class NoteOut(Out):
    id: int


class ChapterOut(Out):
    number: int
    notes: list[NoteOut]


class BookOut(Out):
    title: str
    tags: list[TagOut]
    chapters: list[ChapterOut]


class ProfileOut(Out):
    text: str


class AuthorOut(Out):
    """Four levels: author, book, chapter, note."""

    id: int
    publisher: PublisherOut | None
    profile: ProfileOut | None
    books: list[BookOut]


class AuthorUp(Out):
    name: str
    publisher: PublisherOut | None


class BookUp(Out):
    title: str
    author: AuthorUp


class ChapterUp(Out):
    number: int
    book: BookUp


class NoteUp(Out):
    """Four levels, the other way round."""

    id: int
    chapter: ChapterUp | None


class NodeOut(Out):
    id: int
    children: list[NodeOut]


class NodeUp(Out):
    id: int
    parent: NodeUp | None


class TagWithBooks(Out):
    name: str
    books: list[BookUp]


class TitleOut(Out):
    title: str


class AuthorTitles(Out):
    id: int
    books: list[TitleOut]


class AuthorFirst(Out):
    id: int
    first_books: list[TitleOut]


class AuthorCollections(Out):
    id: int
    books_by_title: dict[str, TitleOut]
    book_set: list[TitleOut]


class AuthorNever(Out):
    id: int
    never: list[TitleOut]


class EmployeeOut(Out):
    id: int
    publisher: PublisherOut | None


class StaffOut(Out):
    id: int
    staff: list[EmployeeOut]


class BossOut(Out):
    id: int
    boss: BossOut | None
