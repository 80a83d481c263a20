"""The café without a web server, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_script(*arguments: str, cwd: Path, **environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.cafe.script", *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout.splitlines()


@pytest.mark.parametrize("arguments", [(), ("--async",)], ids=["sync", "async"])
def test_the_script_adds_john_doe_and_prints_the_names(url: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run_script(*arguments, cwd=tmp_path, DATABASE_URL=url) == ["John Doe"]
    assert run_script(*arguments, cwd=tmp_path, DATABASE_URL=url) == ["John Doe", "John Doe"]


def test_without_a_url_the_data_is_in_a_file_of_the_current_directory(tmp_path: Path) -> None:
    assert run_script(cwd=tmp_path) == ["John Doe"]
    assert run_script("--async", cwd=tmp_path) == ["John Doe", "John Doe"]
    assert (tmp_path / "cafe.db").exists()
