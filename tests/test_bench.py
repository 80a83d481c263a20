"""The benchmark's command runs, and what it writes agrees with what it measured.

Only with applications that the project's own environment can serve: no network is needed.
"""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import environments
from bench.openloop import Phase, press_from_outside, schedule
from bench.overload import BEGIN, END, LOADS, SUBJECTS, Row, read, short_table, table
from bench.page import page
from bench.results import Cell, Results
from bench.subjects import BY_NAME, PEERS
from packaging.requirements import Requirement

from support.server import Server

pytestmark = pytest.mark.load

ROOT = Path(__file__).parent.parent
TWO = ("tutorial", "ours_sync")


def test_the_command_measures_two_peers_side_by_side_and_writes_results_tables_and_page(tmp_path: Path) -> None:
    some = ["--only", *TWO, "--database", "sqlite", "--endpoint", "get", "post", "--clients", "2"]
    short = ["--seconds", "0.3", "--ramp", "0.05", "--repetitions", "1", "--into", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "bench", *some, *short], cwd=ROOT, check=True, timeout=240)
    results = Results.load(tmp_path / "results.json")
    assert [(cell.endpoint, cell.peer) for cell in results.cells] == [(e, p) for e in ("get", "post") for p in TWO]
    for cell in results.cells:
        assert cell.requests_per_second > 0
        assert not cell.errors
        assert cell.sent == sum(window.sent for window in cell.windows) > 0
    tables = (tmp_path / "RESULTS.md").read_text()
    assert all(f"| 2 | {BY_NAME[name].label} |" in tables for name in TWO)
    assert (tmp_path / "benchmarks.md").read_text() == page(results)


def test_a_peer_that_is_ahead_of_ours_is_listed_on_the_page() -> None:
    ahead, behind = cell("handwritten_async", cpu_us=800), cell("ours_async", cpu_us=1000)
    assert "| 8 | hand-written AsyncSession | CPU per request, µs | 800 | 1,000 |" in page(results(ahead, behind))
    level = page(results(cell("handwritten_async", cpu_us=990), behind))
    assert "In no cell of this run" in level


def test_a_peer_whose_requests_failed_is_ahead_in_nothing() -> None:
    failing = cell("tutorial", clients=128, requests_per_second=9000.0, errors={"500": 1})
    text = page(results(failing, cell("ours_sync", clients=128)))
    assert "In no cell of this run" in text
    assert "| tutorial's pattern | sync | 9,000 |" in text


@pytest.mark.parametrize("name", environments.names())
def test_a_peer_has_the_versions_of_the_project_for_what_all_share(name: str) -> None:
    locked = {one["name"]: one["version"] for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    lines = (environments.REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    theirs = {one.name: str(one.specifier) for one in map(Requirement, lines)}
    common = (environments.REQUIREMENTS / "common.in").read_text().splitlines()
    shared = [Requirement(line).name for line in common if not line.startswith("#")]
    assert {one: theirs[one] for one in shared if one in locked} == {
        one: f"=={locked[one]}" for one in shared if one in locked
    }


def test_the_page_names_the_version_of_every_library() -> None:
    measured = results(cell("ours_async"))
    measured.circumstances["peers"] = {"advanced-alchemy, sync": {"python": "3.13.0", "advanced-alchemy": "1.12.0"}}
    assert "The libraries: advanced-alchemy 1.12.0." in page(measured)


def test_every_peer_has_an_application_and_its_environment_has_requirements() -> None:
    there = {path.stem for path in (ROOT / "bench" / "apps").glob("*.py")}
    assert {peer.name for peer in PEERS} <= there
    assert {peer.environment for peer in PEERS} - {""} == set(environments.names())


def test_an_open_loop_sends_by_its_schedule_whether_or_not_it_is_answered(serve: Callable[..., Server]) -> None:
    phases = [Phase(rate=20, seconds=0.5), Phase(rate=40, seconds=0.5)]
    assert list(schedule(phases)) == [*(number / 20 for number in range(10)), *(0.5 + n / 40 for n in range(20))]
    sent = press_from_outside(serve("support.trivial_app:app").port, "/", phases)
    assert [one.due for one in sent] == list(schedule(phases))
    assert all(one.good and one.seconds >= one.behind >= 0 for one in sent)


def test_the_table_of_overload_compares_each_application_with_its_own_peak() -> None:
    goodput = {0.5: 125.0, 1.0: 200.0, 2.0: 250.0, 5.0: 50.0}
    rows = [overload_row(one.name, load, goodput[load]) for load in LOADS for one in SUBJECTS]
    lines = [line for line in table(rows, (300.0, 200.0), 30.0).splitlines() if "| ours, async |" in line]
    assert [line.split(" | ")[4] for line in lines] == ["0.50", "0.80", "1.00", "0.20"]
    assert "(1.5 x)" in table(rows, (300.0, 200.0), 30.0)


def test_the_page_about_overload_has_the_table_of_the_published_run() -> None:
    written = (ROOT / "docs" / "explanation" / "under-overload.md").read_text(encoding="utf-8")
    between = written.partition(BEGIN)[2].partition(END)[0].strip()
    assert between == short_table(read(ROOT / "bench" / "results" / "overload.json"))


def overload_row(subject: str, load: float, goodput: float) -> Row:
    """Return a row as a run would have it."""
    rates = {"offered": 250 * load, "goodput": goodput, "in_patience": goodput, "refused": 0.0, "lost": 0.0}
    times = {"p50": 0.02, "p99": 0.03, "behind": 0.0, "starved": 0.0, "recovery": 0.0}
    return Row(subject=subject, load=load, cpu=0.5, megabytes=80.0, **rates, **times)


def cell(
    peer: str,
    *,
    clients: int = 8,
    requests_per_second: float = 1000.0,
    cpu_us: float | None = 1000.0,
    errors: dict[str, int] | None = None,
) -> Cell:
    """Return a cell as a run would have it."""
    return Cell(
        database="postgresql",
        endpoint="list",
        clients=clients,
        peer=peer,
        requests_per_second=requests_per_second,
        p50_ms=1.0,
        p99_ms=2.0,
        cpu_us=cpu_us,
        sent=1000,
        errors=errors or {},
        stalled_windows=0,
        memory_mb=80.0,
        windows=[],
    )


def results(*cells: Cell) -> Results:
    """Return the results of a run with these cells."""
    return Results(circumstances={"date": "2026-11-28", "python": "3.11", "cpus": 2, "packages": {}}, cells=list(cells))
