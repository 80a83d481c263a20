"""``@transaction``: what one endpoint asks of its unit of work."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi_database.errors import ConflictingSettings

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "fastapi_database_transaction"


@dataclass(frozen=True, slots=True)
class TransactionOptions:
    """What an endpoint asked for."""

    commit_on: frozenset[int] = frozenset()


DEFAULT = TransactionOptions()


def transaction(*, commit_on: Collection[int] = ()) -> Callable[[F], F]:
    """Set how the unit of work of an endpoint ends; put it below the route decorator.

    ``commit_on`` are statuses from 400 on after which the unit commits all the same, whether the answer was returned or
    an exception led to it: a failed login that must be counted, say. Everything else keeps the one rule: below 400
    commits, an error rolls back. Works on every router; FastAPI sees the endpoint as it is. A commit that then fails
    is answered as its own error. Applied twice, the outermost counts.

    Raises ``ConflictingSettings`` for a status that is no error.

    >>> @transaction(commit_on={401})
    ... def login() -> None: ...
    >>> transaction_options(login).commit_on
    frozenset({401})
    """
    wrong = [status for status in commit_on if not 400 <= status <= 599]
    if wrong:
        raise ConflictingSettings(f"commit_on={wrong!r}: only statuses from 400 to 599 can be asked to commit")
    options = TransactionOptions(commit_on=frozenset(commit_on))

    def mark(endpoint: F) -> F:
        setattr(endpoint, _ATTRIBUTE, options)
        return endpoint

    return mark


def transaction_options(endpoint: object) -> TransactionOptions:
    """Give what an endpoint asked for; the defaults where it asked for nothing."""
    found = getattr(endpoint, _ATTRIBUTE, DEFAULT)
    return found if isinstance(found, TransactionOptions) else DEFAULT
