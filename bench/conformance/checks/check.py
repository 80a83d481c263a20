"""What a check is, and what it returns."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from bench.conformance.served import Answer, Served

Verdict = Literal["pass", "fail", "n/a"]
BOTH = ("postgresql", "sqlite")
POSTGRESQL = ("postgresql",)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What came out: `value` is short enough for a table; `reason` says why something does not apply."""

    verdict: Verdict
    value: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One guarantee as a question. With `restarts` the check starts the server itself, and leaves it to be ended."""

    number: str
    sentence: str
    ask: Callable[[Served], Awaitable[Observed]]
    databases: tuple[str, ...] = BOTH
    restarts: bool = False
    timeout: float = 180.0


def verdict(holds: bool, value: str) -> Observed:
    """Return a pass or a fail with the observed value."""
    return Observed(verdict="pass" if holds else "fail", value=value)


def not_applicable(reason: str) -> Observed:
    """Return that the guarantee can not be asked of this subject, and why."""
    assert reason
    return Observed(verdict="n/a", value="", reason=reason)


def counted(answers: Iterable[Answer]) -> str:
    """Return how many answers had which status, as "49 x 409"; no answer in time is "none"."""
    counts = Counter(answer.status for answer in answers)
    return ", ".join(f"{counts[status]} x {status or 'none'}" for status in sorted(counts, key=_none_last))


def good(answers: Iterable[Answer]) -> int:
    """Count the answers that say that all is well."""
    return sum(200 <= answer.status < 300 for answer in answers)


def all_are(answers: Iterable[Answer], status: int) -> bool:
    """Tell whether every answer has this status."""
    return all(answer.status == status for answer in answers)


def mark_of(served: Served, name: str) -> str:
    """Return a mark for rows that no other check uses."""
    return f"{name}-{served.subject.name}-"


async def new_item(served: Served, name: str) -> int:
    """Store an item through the subject and return its id."""
    answer: Any = await served.ask("POST", "/items", {"name": name})
    return int(answer.json()["id"])


def _none_last(status: int) -> int:
    return status or 1000
