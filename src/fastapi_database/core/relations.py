"""Load what an answer is about to read: one statement per relationship, however many objects."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import inspect, select, tuple_
from sqlalchemy.orm import InstanceState, Mapper, RelationshipProperty, Session, aliased, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from fastapi_database.core.internals import criteria, has_own_loader, has_statement_hooks

CHUNK = 5000
"""Keys per statement: below SQLite's 32,766 and PostgreSQL's 32,767 parameters, for composite keys too."""

_LOADED_BY_THEMSELVES = {"dynamic", "write_only", "noload", "raise", "raise_on_sql"}


class Reads(Protocol):
    """What is read of an object: attribute names, and what is read of the objects behind each.

    Compared and hashed by value: what is made anew for the same thing is the same.
    """

    def attributes(self) -> Mapping[str, Reads | None]:
        """Give the names; None where the value is read as it is."""
        ...

    def __hash__(self) -> int: ...


def load_relations(objects: Iterable[Any], reads: Reads) -> None:
    """Load the unloaded relationships that ``reads`` names, level by level.

    Objects without a session are left alone; so are relationships that are configured not to load.
    """
    _load_level(objects, reads, set())


def _load_level(objects: Iterable[Any], reads: Reads, seen: set[tuple[int, Reads]]) -> None:
    parents: dict[RelationshipProperty[Any], list[Any]] = {}
    below: dict[RelationshipProperty[Any], Reads] = {}
    for cls, group in _by_class(objects).items():
        wanted = _relations(cls, reads)
        if not wanted:
            continue
        fresh = [one for one in group if (id(one), reads) not in seen]  # data may go in circles
        seen.update((id(one), reads) for one in fresh)
        for relation, deeper in wanted:
            parents.setdefault(relation, []).extend(fresh)
            if deeper is not None:
                below[relation] = deeper
    for relation, group in parents.items():
        _load(relation, group)
        if relation in below:
            _load_level(list(_values(group, relation.key)), below[relation], seen)


def _by_class(objects: Iterable[Any]) -> dict[type, list[Any]]:
    groups: dict[type, list[Any]] = {}
    for one in objects:
        cls: type = type(one)  # pyright: ignore[reportUnknownVariableType]
        groups.setdefault(cls, []).append(one)
    return groups


@functools.lru_cache(maxsize=1024)
def _relations(cls: type, reads: Reads) -> tuple[tuple[RelationshipProperty[Any], Reads | None], ...]:
    """Give the relationships of a class that are read; subclasses share them with the class that declares them."""
    mapper: Any = inspect(cls, raiseerr=False)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(mapper, Mapper):
        return ()
    relations = mapper.relationships  # pyright: ignore[reportUnknownMemberType]
    return tuple((relations[name], deeper) for name, deeper in reads.attributes().items() if name in relations)


def _load(relation: RelationshipProperty[Any], objects: Sequence[Any]) -> None:
    if relation.lazy in _LOADED_BY_THEMSELVES:
        return
    by_session: dict[tuple[Session, tuple[Any, ...], bool], list[Any]] = {}
    for one in {id(one): one for one in objects}.values():
        state: InstanceState[Any] = inspect(one)
        if relation.key in state.unloaded and state.persistent and state.session is not None:
            key = state.session, criteria(state), has_own_loader(state, relation.key)
            by_session.setdefault(key, []).append(one)
    for (session, options, own_loader), parents in by_session.items():
        if len(parents) == 1 or own_loader or options or has_statement_hooks(session):
            # SQLAlchemy's own lazy load: it may need no statement, and it raises where loading is forbidden.
            getattr(parents[0], relation.key)
            if len(parents) > 1:
                _load_by_sqlalchemy(session, relation, parents[1:], options)
        else:
            _load_together(session, relation, parents)


def _load_by_sqlalchemy(
    session: Session, relation: RelationshipProperty[Any], parents: Sequence[Any], options: Sequence[Any]
) -> None:
    """Have SQLAlchemy fill in the relationship of objects that are loaded already.

    One statement more than :func:`_load_together`, but the application's hooks and the options of the query the
    objects came from (criteria of tenants, soft deletion) are applied by SQLAlchemy as to any eager load.
    """
    parent = relation.parent
    eager = selectinload(getattr(parent.class_, relation.key))
    for chunk in _chunks((inspect(one).identity for one in parents), CHUNK // len(parent.primary_key)):
        wanted = tuple_(*parent.primary_key).in_(chunk)
        if len(parent.primary_key) == 1:
            wanted = parent.primary_key[0].in_([key[0] for key in chunk])
        session.scalars(select(parent.class_).where(wanted).options(*options, eager)).unique().all()


def _load_together(session: Session, relation: RelationshipProperty[Any], parents: Sequence[Any]) -> None:
    """Join from an alias of the parents, so that a relationship to the same table needs no special case."""
    mapper = relation.parent
    parent: Any = aliased(mapper.class_)
    keys = [getattr(parent, mapper.get_property_by_column(column).key) for column in mapper.primary_key]
    statement = select(*keys, relation.entity.entity).select_from(parent).join(getattr(parent, relation.key))
    if relation.order_by:
        statement = statement.order_by(*relation.order_by)
    found: dict[tuple[Any, ...], list[Any]] = {inspect(one).identity: [] for one in parents}
    for chunk in _chunks(found, CHUNK // len(keys)):
        wanted = tuple_(*keys).in_(chunk) if len(keys) > 1 else keys[0].in_([key[0] for key in chunk])
        for row in session.execute(statement.where(wanted)).unique():
            found[tuple(row[: len(keys)])].append(row[len(keys)])
    for one in parents:
        values = found[inspect(one).identity]
        set_committed_value(one, relation.key, values if relation.uselist else next(iter(values), None))


def _values(objects: Iterable[Any], name: str) -> Iterator[Any]:
    for one in objects:
        value = inspect(one).dict.get(name)
        if isinstance(value, Mapping):
            yield from value.values()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        elif isinstance(value, Iterable):
            yield from value  # pyright: ignore[reportUnknownVariableType]
        elif value is not None:
            yield value


def _chunks(keys: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    iterator = iter(keys)
    while chunk := list(islice(iterator, size)):
        yield chunk
