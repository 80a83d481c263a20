"""From a response model to the relationships it reads, and those loaded before it reads them."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo
from sqlalchemy import inspect as state_of

if TYPE_CHECKING:
    from fastapi_database.core.relations import Reads

REMEMBERED = 1024
"""Annotations and models whose parts are known by heart; an application may well make models as it runs."""


def preload(value: Any, response_model: Any) -> None:
    """Load what ``response_model`` will read of the ORM objects in ``value``, one statement per relationship.

    Reading them one by one would be a statement per object and relationship. Objects are found in lists, mappings,
    dataclasses and Pydantic objects too, where the model says what is read of them.
    """
    models = models_in(response_model)
    if not models or value is None or _has_all(value, models):
        return
    from fastapi_database.core.relations import load_relations  # noqa: PLC0415 - the ORM is not imported with the package

    if isinstance(value, list) and response_model_is_flat_list(response_model):
        load_relations(value, ModelReads(models))  # pyright: ignore[reportUnknownArgumentType]
        return
    found: dict[tuple[type, ...], list[Any]] = {}
    _collect(value, response_model, found)
    for wanted, objects in found.items():
        load_relations(objects, ModelReads(wanted))


def _has_all(value: Any, models: tuple[type, ...]) -> bool:
    """Tell at a glance that there is nothing to load: mapped objects, no relationship of which is read."""
    if type(value) is list:  # pyright: ignore[reportUnknownArgumentType]
        classes: set[Any] = set(map(type, value))  # pyright: ignore[reportUnknownArgumentType]
        return all(_reads_no_relation(cls, models) for cls in classes)
    return _reads_no_relation(value.__class__, models)


@functools.lru_cache(REMEMBERED)
def _reads_no_relation(cls: type, models: tuple[type, ...]) -> bool:
    """Tell whether a class is mapped and ``models`` read none of its relationships."""
    mapper: Any = state_of(cls, raiseerr=False)  # pyright: ignore[reportUnknownVariableType]
    if not getattr(mapper, "is_mapper", False):  # pyright: ignore[reportUnknownArgumentType]
        return False
    relations: set[str] = set(mapper.relationships.keys())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return relations.isdisjoint(_attributes(models))


def response_model_is_flat_list(annotation: Any) -> bool:
    """Tell whether a response model is ``list[Model]``, the usual case, which needs no search."""
    arguments = get_args(annotation)
    return get_origin(annotation) is list and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel)


def _collect(value: Any, annotation: Any, found: dict[tuple[type, ...], list[Any]]) -> None:
    models = models_in(annotation)
    if not models or value is None or isinstance(value, str | bytes | int | float):
        return
    if isinstance(value, Mapping):
        if any(issubclass(model, RootModel) for model in models) or not _is_model(annotation):
            for one in value.values():  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
                _collect(one, annotation, found)
        else:
            _collect_fields(models, value.get, found)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    elif isinstance(value, Sequence | Set):
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            _collect(one, annotation, found)
    elif (isinstance(value, BaseModel) or is_dataclass(value)) and not _is_mapped(value):
        _collect_fields(models, lambda name: getattr(value, name, None), found)
    else:
        found.setdefault(models, []).append(value)


def _collect_fields(
    models: tuple[type, ...], get: Callable[[str], Any], found: dict[tuple[type, ...], list[Any]]
) -> None:
    for model in models:
        for attribute, annotation in _fields(model):
            _collect(get(attribute), annotation, found)


def _is_model(annotation: Any) -> bool:
    if get_origin(annotation) in {Annotated, Union, types.UnionType}:
        return any(_is_model(argument) for argument in get_args(annotation))
    return _is_read(annotation)


def _is_read(annotation: Any) -> bool:
    """Tell whether an annotation is a class whose fields are read of an object: a Pydantic model or a dataclass."""
    return inspect.isclass(annotation) and (BaseModel in annotation.__mro__ or is_dataclass(annotation))


def models_in(annotation: Any) -> tuple[type, ...]:
    """Find the Pydantic models in an annotation: ``list[UserOut]``, ``UserOut | None``, ``Annotated[…]``."""
    try:
        hash(annotation)
    except TypeError:  # Annotated[UserOut, {"a": "dictionary"}]
        return tuple(dict.fromkeys(_models(annotation)))
    return _remembered_models_in(annotation)


@functools.lru_cache(REMEMBERED)
def _remembered_models_in(annotation: Any) -> tuple[type, ...]:
    return tuple(dict.fromkeys(_models(annotation)))


def _models(annotation: Any) -> Iterator[type]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _models(get_args(annotation)[0])
    elif origin in {Union, types.UnionType} or (origin is not None and not isinstance(annotation, type)):
        for argument in get_args(annotation):
            yield from _models(argument)
    elif isinstance(annotation, type) and issubclass(annotation, RootModel):
        yield from _models(annotation.model_fields["root"].annotation)
    elif _is_read(annotation):
        yield annotation
    elif origin is not None:
        for argument in get_args(annotation):
            yield from _models(argument)


def _is_mapped(value: object) -> bool:
    """Tell whether an object is one of the ORM's; those may be dataclasses, or models of Pydantic by SQLModel."""
    return getattr(state_of(value, raiseerr=False), "is_instance", False)


@dataclass(frozen=True)
class ModelReads:
    """What one or several response models read of an object."""

    models: tuple[type, ...]

    def attributes(self) -> Mapping[str, Reads | None]:
        return _attributes(self.models)


@functools.lru_cache(REMEMBERED)
def _attributes(models: tuple[type, ...]) -> Mapping[str, Reads | None]:
    found: dict[str, Reads | None] = {}
    for model in models:
        for attribute, annotation in _fields(model):
            below = models_in(annotation)
            found[attribute] = ModelReads(below) if below else None
    return found


@functools.lru_cache(REMEMBERED)
def _fields(model: Any) -> tuple[tuple[str, Any], ...]:
    """Give what a Pydantic model or dataclass reads of an object: attribute names with their annotations."""
    if issubclass(model, BaseModel):
        fields = model.model_fields.items()
        return tuple((attribute, field.annotation) for name, field in fields for attribute in _names(name, field))
    return tuple(get_type_hints(model, include_extras=True).items())


def _names(name: str, field: FieldInfo) -> Iterator[str]:
    yield name
    alias = field.validation_alias
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        first = choice.path[0] if isinstance(choice, AliasPath) else choice
        if isinstance(first, str):
            yield first
