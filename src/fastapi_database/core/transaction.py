"""``@transaction``: what one endpoint asks of its unit of work."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi_database.config import LONGEST
from fastapi_database.errors import ConflictingSettings

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "fastapi_database_transaction"


@dataclass(frozen=True, slots=True)
class TransactionOptions:
    """What an endpoint asked for."""

    commit_on: frozenset[int] = frozenset()
    priority: int = 0
    timeout: float | None = None


DEFAULT = TransactionOptions()


def transaction(
    *, timeout: float | None = None, priority: int = 0, commit_on: Collection[int] = ()
) -> Callable[[F], F]:
    """Set how the unit of work of an endpoint waits and ends; put it below or above the route decorator.

    ``timeout`` is how many seconds the unit of work has as a whole, from when its session is first asked for: waiting
    for a connection ends with it, no statement and no COMMIT starts after it, and the database ends a statement that
    still runs. The answer is 504, and nothing is stored. It takes the place of ``statement_timeout``, also where it is
    longer.

    ``priority`` matters when connections are scarce: who waits for one with a higher priority goes first, and where
    ``max_waiting`` wait already, takes the room of one with a lower. 0 is everybody's; one below it waits longer.

    ``commit_on`` are statuses from 400 on after which the unit commits all the same, whether the answer was returned or
    an exception led to it: a failed login that must be counted, say. Everything else keeps the one rule: below 400
    commits, an error rolls back. Works on every router; FastAPI sees the endpoint as it is. A commit that then fails
    is answered as its own error. Applied twice, the outermost counts.

    Raises ``ConflictingSettings`` for a status that is no error, for what is no collection of statuses, for a
    priority that is no ``int``, and for a time-out that is no number of seconds above 0.

    >>> @transaction(commit_on={401})
    ... def login() -> None: ...
    >>> transaction_options(login).commit_on
    frozenset({401})
    """
    options = TransactionOptions(
        commit_on=_error_statuses(commit_on), priority=checked_priority(priority), timeout=checked_timeout(timeout)
    )

    def mark(endpoint: F) -> F:
        setattr(endpoint, _ATTRIBUTE, options)
        return endpoint

    return mark


def checked_priority(given: object) -> int:
    """Check a priority, whatever was given."""
    if not isinstance(given, int) or isinstance(given, bool):
        raise ConflictingSettings(f"priority={given!r} is no int: write for example priority=10, or -10 for less")
    return given


def checked_timeout(given: object) -> float | None:
    """Check a time-out, whatever was given."""
    if given is None:
        return None
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given <= LONGEST:
        raise ConflictingSettings(
            f"timeout={given!r} must be a number of seconds above 0, at most {LONGEST:.0f}, or None"
        )
    return float(given)


def _error_statuses(given: object) -> frozenset[int]:
    """Check what was given, whatever it is: not every application is type-checked."""
    if isinstance(given, str) or not isinstance(given, Collection):
        raise ConflictingSettings(
            f"commit_on={given!r} is no collection of statuses: write for example commit_on={{401}}"
        )
    statuses: list[object] = list(given)  # pyright: ignore[reportUnknownArgumentType]
    wrong = [status for status in statuses if not isinstance(status, int) or not 400 <= status <= 599]
    if wrong:
        raise ConflictingSettings(f"commit_on={wrong!r}: only statuses from 400 to 599 can be asked to commit")
    return frozenset(status for status in statuses if isinstance(status, int))


def transaction_options(endpoint: object) -> TransactionOptions:
    """Give what an endpoint asked for; the defaults where it asked for nothing."""
    found = getattr(endpoint, _ATTRIBUTE, DEFAULT)
    return found if isinstance(found, TransactionOptions) else DEFAULT
