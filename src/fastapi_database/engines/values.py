"""Keep the values of rows and parameters out of error messages, and so out of logs.

``hide_parameters`` of SQLAlchemy hides what the application sent. Servers, drivers and type conversions quote
values in their own messages; those are taken out here, in the error and in everything it was caused by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import event
from sqlalchemy import exc as sa
from sqlalchemy.engine import Engine, ExceptionContext

HIDDEN = "[hidden]"

_SHORT = 3  # a text of three letters or fewer is no secret, and is part of every message
_QUOTING_CLASSES = {"22", "23"}  # SQLSTATE classes whose messages quote the row: data exceptions, constraint violations
# SQLite's codes for NOT NULL, UNIQUE, CHECK and primary key: their messages quote the schema and nothing else.
_NAMING_CODES = {1299, 2067, 275, 1555}
_PLAIN = re.compile(r"[\"'\\\s]")
_PRINTED = ("detail", "hint", "where", "query", "internal_query")  # asyncpg prints the first two with the message
_NAMES = ("constraint_name", "table_name", "column_name")


def hide_values(engine: Engine) -> None:
    """Clean every error of an engine before anyone sees it."""
    event.listen(engine, "handle_error", _hide)


def _hide(context: ExceptionContext) -> None:
    values = _texts(context.parameters)
    wrapped = context.sqlalchemy_exception
    error = context.original_exception
    for cause in _chain(error):
        _clean(cause, values)
    if wrapped is not None and not isinstance(wrapped, sa.DBAPIError):
        _hide_refused_value(error)
    if isinstance(wrapped, sa.StatementError):
        wrapped.hide_parameters = True  # with echo=True the engine itself shows them
        kind = type(error)
        wrapped.args = (f"({kind.__module__}.{kind.__name__}) {error.args[0] if error.args else ''}",)


def _hide_refused_value(error: BaseException | None) -> None:
    """Take out the messages of a type that refused a value: they quote it, and it is no parameter yet."""
    while error is not None and not isinstance(error, sa.SQLAlchemyError):
        error.args = (f"a value was refused: {HIDDEN}",)
        error = error.__cause__


def _chain(error: BaseException | None) -> Iterator[Any]:
    """Give an error and everything that a traceback would print with it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


def _clean(error: Any, values: list[str]) -> None:
    for name in _PRINTED:
        if getattr(error, name, None):
            setattr(error, name, None)
    if not error.args or not isinstance(error.args[0], str):
        return
    if getattr(error, "sqlite_errorcode", None) in _NAMING_CODES:
        return
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and state[:2] in _QUOTING_CLASSES:
        message = _names(error, state)
    else:
        message = error.args[0].split("\nDETAIL:")[0]
        for value in values:
            message = message.replace(value, HIDDEN)
    error.args = (message, *error.args[1:])


def _names(error: Any, state: str) -> str:
    # SQLAlchemy 2.0 puts an error of its own before asyncpg's, without the names.
    own = error.__cause__ if hasattr(error.__cause__, "sqlstate") else error
    source = getattr(own, "diag", own)
    found = [f"{name.removesuffix('_name')} {value}" for name in _NAMES if (value := getattr(source, name, None))]
    return ", ".join([f"{type(own).__name__}: sqlstate {state}", *found])


def _texts(parameters: object) -> list[str]:
    """Collect the parameters of a statement as they may stand in a message, longest first."""
    found: set[str] = set()
    waiting: list[object] = [parameters]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend(value.values())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, bytes):
            found |= {repr(value)[2:-1], value.decode(errors="replace")}
        elif value is not None and not isinstance(value, bool):
            text = str(value)
            # As it is, as Python shows it, as JSON and as SQL quote it; and the part before anything they would quote.
            found |= {text, repr(text)[1:-1], json.dumps(text)[1:-1], text.replace("'", "''"), _PLAIN.split(text)[0]}
    return sorted((text for text in found if len(text) > _SHORT), key=len, reverse=True)
