"""`python -m bench conformance`: ask every subject every question, write the record and its tables.

A subject that crashes or stalls costs its time-outs and is started again for the next question; a check that breaks
counts as "error", never against a subject.
"""

import argparse
import asyncio
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.conformance.checks import CHECKS, NUMBERS
from bench.conformance.checks.check import Check, Observed
from bench.conformance.databases import KINDS
from bench.conformance.record import SHOWN, Answer, Asked, Question, Record, circumstances
from bench.conformance.report import write
from bench.conformance.served import Served
from bench.conformance.subjects import BROKEN, NAMES, SUBJECTS, Subject
from bench.environments import packages, python

RESULTS = Path(__file__).parent.parent / "results"
PARTIAL = RESULTS / "partial.tmp"  # filtered runs never overwrite the published tables
PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "conformance.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the arguments name."""
    options = _parser().parse_args(arguments)
    if options.render:
        write(Record.load(RESULTS / "conformance.json"), RESULTS / "CONFORMANCE.md", PAGE)
        return
    record = run(
        subjects=[one for one in (*SUBJECTS, BROKEN) if one.name in options.only] if options.only else SUBJECTS,
        checks=[one for one in CHECKS if not options.check or one.number in options.check],
        databases=[kind for kind in KINDS if not options.database or kind in options.database],
    )
    narrowed = options.only or options.check or options.database
    directory = PARTIAL if narrowed else RESULTS
    record.save(directory / "conformance.json")
    write(record, directory / "CONFORMANCE.md", None if narrowed else PAGE)
    print(f"\nTables: {(directory / 'CONFORMANCE.md').relative_to(RESULTS.parent.parent)}, {_sum(record)}")


def run(*, subjects: Sequence[Subject], checks: Sequence[Check], databases: Sequence[str]) -> Record:
    """Ask, and print each answer as it comes."""
    started = time.monotonic()
    pythons = {one.name: python(one.environment or one.name) for one in subjects}
    answers: list[Answer] = []
    for kind in databases:
        asked = [check for check in checks if kind in check.databases]
        with KINDS[kind]() as make_database:
            for number, subject in enumerate(subjects, 1):
                print(f"\n[{number}/{len(subjects)}] {kind}, {subject.label}", flush=True)
                if kind in subject.not_on:
                    outcomes = [(one, _not_here(subject.not_on[kind]), 0.0) for one in asked]
                else:
                    outcomes = _ask_all(Served(subject, make_database(), pythons[subject.name]), asked)
                answers += [_answer(kind, subject, *outcome) for outcome in outcomes]
    return Record(
        circumstances=circumstances((time.monotonic() - started) / 60),
        subjects=[_asked(one, pythons[one.name]) for one in subjects],
        questions=[
            Question(number=one.number, sentence=one.sentence, method=_first_line(one.ask.__doc__)) for one in checks
        ],
        answers=answers,
    )


def _ask_all(served: Served, checks: Sequence[Check]) -> list[tuple[Check, Observed | None, float]]:
    """Ask one subject; None stands for a check that broke."""
    outcomes: list[tuple[Check, Observed | None, float]] = []
    usable = False
    try:
        for check in sorted(checks, key=lambda check: check.restarts):  # each start costs seconds
            started = time.monotonic()
            observed: Observed | None
            try:
                if not check.restarts and not (usable and served.at_rest()):
                    served.start()
                observed = asyncio.run(_limited(check, served))
            except TimeoutError:
                observed = Observed(verdict="fail", value=f"no result within {check.timeout:.0f} s")
            except Exception as error:
                observed = None
                print(f"  {check.number} broke: {error!r}\n{served.log()[-800:]}", flush=True)
            usable = not check.restarts and observed is not None
            seconds = time.monotonic() - started
            print(f"  {check.number:4} {_shown(observed)}  [{seconds:.1f} s]", flush=True)
            outcomes.append((check, observed, seconds))
    finally:
        served.close()
    return outcomes


async def _limited(check: Check, served: Served) -> Observed:
    async with asyncio.timeout(check.timeout):
        return await check.ask(served)


def _shown(observed: Observed | None) -> str:
    return "error" if observed is None else f"{observed.verdict:4}  {observed.value or observed.reason}"


def _not_here(reason: str) -> Observed:
    return Observed(verdict="n/a", value="", reason=reason)


def _answer(kind: str, subject: Subject, check: Check, observed: Observed | None, seconds: float) -> Answer:
    return Answer(
        database=kind,
        subject=subject.name,
        number=check.number,
        verdict="error" if observed is None else observed.verdict,
        value="" if observed is None else observed.value,
        reason="" if observed is None else observed.reason,
        seconds=round(seconds, 1),
    )


def _asked(subject: Subject, interpreter: Path) -> Asked:
    installed = packages(subject.environment or subject.name)
    shown = [subject.library, *SHOWN] if subject.library else SHOWN
    version = subprocess.run([interpreter, "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
    return Asked(
        name=subject.name,
        label=subject.label,
        sessions=subject.sessions,
        library=subject.library,
        python=version,
        packages={name: installed[name] for name in shown if name in installed},
    )


def _first_line(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _sum(record: Record) -> str:
    verdicts: dict[str, Any] = {}
    for answer in record.answers:
        verdicts[answer.verdict] = verdicts.get(answer.verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench conformance", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these subjects")
    parser.add_argument("--check", nargs="+", choices=NUMBERS, help="these guarantees")
    parser.add_argument("--database", nargs="+", choices=list(KINDS))
    parser.add_argument("--render", action="store_true", help="write the tables again from conformance.json")
    return parser
