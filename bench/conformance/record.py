"""The record of a run: who was asked what, and what came out; written to and read from conformance.json."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

SHOWN = ("fastapi", "starlette", "sqlalchemy", "psycopg", "asyncpg", "aiosqlite", "uvicorn")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One subject, with the versions that served it."""

    name: str
    label: str
    sessions: str
    library: str | None
    python: str
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One check, as the table shows it."""

    number: str
    sentence: str
    method: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One subject's answer to one check. `verdict` is "pass", "fail", "n/a" or "error", which is the check's own."""

    database: str
    subject: str
    number: str
    verdict: str
    value: str
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """A whole run."""

    circumstances: dict[str, str]
    subjects: list[Asked]
    questions: list[Question]
    answers: list[Answer]

    def find(self, database: str, subject: str, number: str) -> Answer | None:
        """Return the answer of a cell."""
        for one in self.answers:
            if (one.database, one.subject, one.number) == (database, subject, number):
                return one
        return None

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file."""
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            circumstances=raw["circumstances"],
            subjects=[Asked(**one) for one in raw["subjects"]],
            questions=[Question(**one) for one in raw["questions"]],
            answers=[Answer(**one) for one in raw["answers"]],
        )


def circumstances(minutes: float) -> dict[str, str]:
    """Say where and when the run was made."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "duration": f"{minutes:.0f} minutes",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs",
    }
