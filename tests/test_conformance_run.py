"""The conformance run: its command works, its checks can tell, and what is published agrees."""

from pathlib import Path

import pytest
from bench.conformance import report
from bench.conformance.checks import CHECKS
from bench.conformance.databases import KINDS
from bench.conformance.record import Record
from bench.conformance.run import PAGE, RESULTS, run
from bench.conformance.subjects import BROKEN, SUBJECTS

pytestmark = pytest.mark.load

ROOT = Path(__file__).parent.parent
APPLICATIONS = Path(report.__file__).parent / "apps"
PUBLISHED = RESULTS / "conformance.json"


def test_the_command_asks_ours_and_the_tutorial_and_tells_them_apart(tmp_path):
    record = run(
        subjects=[one for one in SUBJECTS if one.name in {"ours_sync", "tutorial"}],
        checks=[one for one in CHECKS if one.number in {"A4", "A5", "A11"}],
        databases=["sqlite"],
    )
    verdicts = {(one.subject, one.number): one.verdict for one in record.answers}
    assert verdicts == {
        ("ours_sync", "A4"): "pass",
        ("ours_sync", "A5"): "pass",
        ("ours_sync", "A11"): "pass",
        ("tutorial", "A4"): "fail",  # it has committed when its answer turns out to be invalid
        ("tutorial", "A5"): "pass",  # SQLite goes on after a failed statement
        ("tutorial", "A11"): "pass",
    }
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == record
    assert "4 of 18" not in report.tables(record)
    assert "function-scoped exit: 1; invalid answer: 1" in report.tables(record)


def test_a_check_that_all_pass_fails_for_an_application_that_is_broken_on_purpose():
    (a11,) = (one for one in CHECKS if one.number == "A11")
    record = run(subjects=[BROKEN], checks=[a11], databases=["sqlite"])
    assert [(one.verdict, one.value) for one in record.answers] == [("fail", "500; kept 0 of 1, undone row stored 0")]


def test_every_subject_has_an_application_that_names_its_documentation_and_every_application_is_asked():
    names = {path.stem for path in APPLICATIONS.glob("*.py")} - {"__init__", "model", BROKEN.name}
    assert {one.name for one in SUBJECTS} == {name for name in names if not name.endswith("_endpoints")}


def test_every_number_is_asked_once_and_on_databases_that_exist():
    numbers = [one.number for one in CHECKS]
    assert len(numbers) == len(set(numbers))
    assert {database for one in CHECKS for database in one.databases} <= set(KINDS)


def test_the_page_and_the_table_are_those_of_the_published_record():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(report.BEGIN) == page.count(report.END) == 1
    between = page.partition(report.BEGIN)[2].partition(report.END)[0].strip()
    if not PUBLISHED.exists():
        assert between == "The tables are not published yet."
        return
    tables = report.tables(Record.load(PUBLISHED))
    assert between == tables
    assert tables in (RESULTS / "CONFORMANCE.md").read_text(encoding="utf-8")


def test_the_readme_counts_as_the_published_record_does():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    record = Record.load(PUBLISHED)
    held = {one.name: report.held(record, "postgresql", one.name) for one in SUBJECTS}
    (sync, of_sync), (tasks, of_tasks) = (held.pop(name) for name in ("ours_sync", "ours_async"))
    (least, of_least), (most, of_most) = min(held.values()), max(held.values())
    assert f"{sync} of {of_sync} (sync) and {tasks} of {of_tasks} (async)," in readme
    assert f"the others {least} of {of_least} to {most} of {of_most}." in readme
