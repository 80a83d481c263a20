"""The benchmark's command runs, and what it writes agrees with what it measured.

Only with applications that the project's own environment can serve: no network is needed.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bench import environments
from bench.page import page
from bench.results import Cell, Results
from bench.subjects import BY_NAME, PEERS
from packaging.requirements import Requirement

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
