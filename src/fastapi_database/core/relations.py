"""Load what an answer is about to read: one statement per relationship, however many objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Mapper, RelationshipProperty, Session, aliased, object_session
from sqlalchemy.orm import exc as orm_exc
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.base import instance_state, object_mapper

CHUNK = 5000
"""Keys per statement: below SQLite's 32,766 and PostgreSQL's 32,767 parameters, for composite keys too."""

_LOADED_BY_THEMSELVES = {"dynamic", "write_only", "noload", "raise", "raise_on_sql"}


class Reads(Protocol):
    """What is read of an object: attribute names, and what is read of the objects behind each."""

    def attributes(self) -> Mapping[str, Reads | None]:
        """Give the names; None where the value is read as it is."""
        ...


def load_relations(objects: Iterable[Any], reads: Reads) -> None:
    """Load the unloaded relationships that ``reads`` names, level by level.

    Objects without a session are left alone; so are relationships that are configured not to load.
    """
    for mapper, group in _by_mapper(objects):
        for name, below in reads.attributes().items():
            if name in mapper.relationships:
                _load(mapper, mapper.relationships[name], group)
                if below is not None:
                    load_relations(_values(group, name), below)


def _by_mapper(objects: Iterable[Any]) -> Iterator[tuple[Mapper[Any], list[Any]]]:
    groups: dict[Mapper[Any], dict[int, Any]] = {}
    for one in objects:
        try:
            mapper = object_mapper(one)
        except orm_exc.UnmappedInstanceError:
            continue
        groups.setdefault(mapper, {})[id(one)] = one
    for mapper, group in groups.items():
        yield mapper, list(group.values())


def _load(mapper: Mapper[Any], relation: RelationshipProperty[Any], objects: Sequence[Any]) -> None:
    if relation.lazy in _LOADED_BY_THEMSELVES:
        return
    name = relation.key
    missing = [one for one in objects if name not in instance_state(one).dict]
    by_session: dict[Session, list[Any]] = {}
    for one in missing:
        session = object_session(one)
        if session is not None and instance_state(one).persistent:
            by_session.setdefault(session, []).append(one)
    for session, parents in by_session.items():
        if len(parents) == 1:
            getattr(parents[0], name)  # SQLAlchemy's own lazy load: it may find the object without a statement
        else:
            _load_together(session, mapper, relation, parents)


def _load_together(
    session: Session, mapper: Mapper[Any], relation: RelationshipProperty[Any], parents: Sequence[Any]
) -> None:
    """Join from an alias of the parents, so that a relationship to the same table needs no special case."""
    parent: Any = aliased(mapper.class_)
    keys = [getattr(parent, mapper.get_property_by_column(column).key) for column in mapper.primary_key]
    statement = select(*keys, relation.mapper.class_).select_from(parent).join(getattr(parent, relation.key))
    if relation.order_by:
        statement = statement.order_by(*relation.order_by)
    found: dict[tuple[Any, ...], list[Any]] = {instance_state(one).key[1]: [] for one in parents}  # type: ignore[index]
    for chunk in _chunks(found, CHUNK // len(keys)):
        wanted = tuple_(*keys).in_(chunk) if len(keys) > 1 else keys[0].in_([key[0] for key in chunk])
        for row in session.execute(statement.where(wanted)).unique():
            found[tuple(row[: len(keys)])].append(row[len(keys)])
    for one in parents:
        values = found[instance_state(one).key[1]]  # type: ignore[index]
        set_committed_value(one, relation.key, values if relation.uselist else next(iter(values), None))


def _values(objects: Iterable[Any], name: str) -> Iterator[Any]:
    for one in objects:
        value = instance_state(one).dict.get(name)
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
