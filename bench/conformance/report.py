"""The tables: one of verdicts, then for each guarantee what was observed of whom. A function of the record alone."""

from collections.abc import Iterator
from pathlib import Path

from bench.conformance.record import Answer, Record
from bench.page import replace_between

TITLES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
SHOWN = {"pass": "pass", "fail": "**fail**", "n/a": "n/a", "error": "error"}
BEGIN, END = "<!-- the tables: written by `python -m bench conformance` -->", "<!-- the end of the tables -->"


def write(record: Record, table: Path, page: Path | None) -> None:
    """Write the file of the results, and the tables within the page of the documentation."""
    table.parent.mkdir(parents=True, exist_ok=True)
    head = "# Conformance\n\nWritten by `python -m bench conformance`; how to read and to contest it: "
    head += "[bench/conformance/README.md](../conformance/README.md).\n\n"
    table.write_text(head + tables(record) + "\n", encoding="utf-8")
    if page is not None:
        replace_between(page, BEGIN, END, tables(record))


def tables(record: Record) -> str:
    """Return everything that the record says, as Markdown from the second level on."""
    return "\n".join(_lines(record)).strip()


def held(record: Record, database: str, subject: str) -> tuple[int, int]:
    """Return how many guarantees a subject was found to hold, and of how many that apply to it."""
    verdicts = [one.verdict for one in _answers(record, database, subject)]
    return verdicts.count("pass"), verdicts.count("pass") + verdicts.count("fail")


def _lines(record: Record) -> Iterator[str]:
    for database in _databases(record):
        yield f"## Verdicts on {TITLES[database]}"
        yield ""
        yield from _matrix(record, database)
        yield ""
    yield "## Observed"
    for question in record.questions:
        yield ""
        yield f"### {question.number}"
        yield ""
        yield f"{question.sentence}."
        yield ""
        yield f"*How it is asked:* {question.method}"
        for database in _databases(record):
            answers = [one for one in record.answers if (one.number, one.database) == (question.number, database)]
            if answers:
                yield ""
                yield from _observed(record, database, answers)
    yield ""
    yield "## Who was asked"
    yield ""
    yield from _subjects(record)
    yield ""
    yield f"{', '.join(f'{name}: {value}' for name, value in record.circumstances.items())}."


def _matrix(record: Record, database: str) -> Iterator[str]:
    subjects = [one for one in record.subjects if _asked(record, database, one.name)]
    yield f"| | {' | '.join(one.label for one in subjects)} |"
    yield f"|---|{'---|' * len(subjects)}"
    for question in record.questions:
        cells = [record.find(database, one.name, question.number) for one in subjects]
        if any(cells):
            verdicts = (SHOWN[cell.verdict] if cell else "" for cell in cells)
            yield f"| [{question.number}](#{question.number.lower()}) | {' | '.join(verdicts)} |"
    counted = (held(record, database, subject.name) for subject in subjects)
    yield f"| held | {' | '.join(f'{passed} of {asked}' for passed, asked in counted)} |"
    if elsewhere := [one for one in record.subjects if one not in subjects]:
        yield ""
        reasons = {one.reason for subject in elsewhere for one in _answers(record, database, subject.name)}
        yield f"Not asked here: {', '.join(one.label for one in elsewhere)} ({'; '.join(sorted(reasons))})."


def _observed(record: Record, database: str, answers: list[Answer]) -> Iterator[str]:
    labels = {one.name: one.label for one in record.subjects}
    yield f"| {TITLES[database]} | | observed |"
    yield "|---|---|---|"
    for one in answers:
        if _asked(record, database, one.subject):
            value = one.value or one.reason or "the check broke; it says nothing about the subject"
            yield f"| {labels[one.subject]} | {SHOWN[one.verdict]} | {value.replace('|', '/')} |"


def _subjects(record: Record) -> Iterator[str]:
    yield "| | sessions | Python | library | FastAPI | SQLAlchemy | drivers |"
    yield "|---|---|---|---|---|---|---|"
    for one in record.subjects:
        drivers = ("psycopg",) if one.sessions == "sync" else ("asyncpg", "aiosqlite")
        shown = ", ".join(f"{name} {one.packages[name]}" for name in drivers if name in one.packages)
        library = f"{one.library} {one.packages.get(one.library, '(a checkout)')}" if one.library else "none"
        versions = (one.packages.get(name, "?") for name in ("fastapi", "sqlalchemy"))
        yield f"| {one.label} | {one.sessions} | {one.python} | {library} | {' | '.join(versions)} | {shown} |"


def _databases(record: Record) -> list[str]:
    return list(dict.fromkeys(one.database for one in record.answers))


def _answers(record: Record, database: str, subject: str) -> list[Answer]:
    return [one for one in record.answers if (one.database, one.subject) == (database, subject)]


def _asked(record: Record, database: str, subject: str) -> bool:
    """Tell whether a subject was asked anything at all on a database."""
    return any(one.verdict != "n/a" for one in _answers(record, database, subject))
