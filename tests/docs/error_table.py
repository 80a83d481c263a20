"""The tables of docs/errors/index.md, from the code: every code a person or a client can meet.

``PYTHONPATH=tests python -m docs.error_table`` writes them into the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docs.blocks import DOCS
from fastapi_database import errors
from fastapi_database.errors import FastAPIDatabaseError

INDEX = DOCS / "errors" / "index.md"


def leaves(cls: type[FastAPIDatabaseError] = FastAPIDatabaseError) -> Iterator[type[FastAPIDatabaseError]]:
    """Every class that is raised; those with subclasses only group them."""
    children = cls.__subclasses__()
    if not children:
        yield cls
    for child in children:
        yield from leaves(child)


def problems() -> dict[str, errors.Problem]:
    """Every problem document that an error of the database is answered with, by code."""
    found: dict[str, errors.Problem] = {}
    values = [*vars(errors).values(), *errors.SQLSTATE.values(), *errors.SQLITE_CODE.values()]
    for value in values:
        if isinstance(value, errors.Problem):
            found.setdefault(value.code, value)
    return found


def codes() -> set[str]:
    """Every code that needs a page."""
    return {cls.code for cls in leaves()} | set(problems())


def heading(code: str) -> str:
    """The line under the heading of an error's page."""
    for cls in leaves():
        if cls.code == code:
            return f"**{cls.status}** *{cls.title}* · `fastapi_database.errors.{cls.__name__}`"
    problem = problems()[code]
    return f"**{problem.status}** *{problem.title}*"


def raised_table() -> str:
    """The errors this library raises by itself."""
    rows = [f"| [{cls.code}]({cls.code}.md) | `{cls.__name__}` | {cls.status} | {_summary(cls)} |" for cls in leaves()]
    return "\n".join(["| code | class | status | raised when |", "|---|---|---|---|", *rows])


def answered_table() -> str:
    """The errors of SQLAlchemy and of the drivers, as a client reads them."""
    own = {cls.code for cls in leaves()}
    rows = [
        f"| [{problem.code}]({problem.code}.md) | {problem.status} | {problem.title} |"
        for problem in sorted(problems().values(), key=lambda problem: (problem.status, problem.code))
        if problem.code not in own
    ]
    return "\n".join(["| code | status | title |", "|---|---|---|", *rows])


def _summary(cls: type[FastAPIDatabaseError]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].replace("``", "`")


def write() -> None:
    """Replace the two tables of the page."""
    text = INDEX.read_text(encoding="utf-8")
    for table in (raised_table(), answered_table()):
        header = re.escape(table.splitlines()[0])
        text = re.sub(rf"^{header}\n(?:\|.*\n)+", lambda _, table=table: table + "\n", text, flags=re.MULTILINE)
    INDEX.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
