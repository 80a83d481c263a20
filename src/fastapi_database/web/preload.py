"""From a response model to the relationships it reads, and those loaded before it reads them."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from fastapi_database.core.relations import Reads, load_relations


def preload(value: Any, response_model: Any) -> None:
    """Load what ``response_model`` will read of the ORM objects in ``value``, one statement per relationship.

    Reading them one by one would be a statement per object and relationship.
    """
    models = models_in(response_model)
    if models and value is not None:
        load_relations(_objects(value), ModelReads(models))


def _objects(value: Any) -> Iterable[Any]:
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return iter(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return [value]


@functools.cache
def models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Find the Pydantic models in an annotation: ``list[UserOut]``, ``UserOut | None``, ``Annotated[…]``."""
    return tuple(dict.fromkeys(_models(annotation)))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _models(get_args(annotation)[0])
    elif origin in {Union, types.UnionType} or (origin is not None and not isinstance(annotation, type)):
        for argument in get_args(annotation):
            yield from _models(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif origin is not None:
        for argument in get_args(annotation):
            yield from _models(argument)


class ModelReads(Reads):
    """What one or several response models read of an object."""

    def __init__(self, models: tuple[type[BaseModel], ...]) -> None:
        self._models = models

    def attributes(self) -> Mapping[str, Reads | None]:
        return _attributes(self._models)


@functools.cache
def _attributes(models: tuple[type[BaseModel], ...]) -> Mapping[str, Reads | None]:
    found: dict[str, Reads | None] = {}
    for model in models:
        for name, field in model.model_fields.items():
            annotation: Any = field.annotation
            below = models_in(annotation)
            for attribute in _names(name, field):
                found[attribute] = ModelReads(below) if below else None
    return found


def _names(name: str, field: FieldInfo) -> Iterator[str]:
    yield name
    alias = field.validation_alias
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        if isinstance(choice, str):
            yield choice
