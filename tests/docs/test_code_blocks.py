"""Every code block of the documentation runs, and prints what its page says. Conventions: blocks.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.blocks import Block, PageError, Program, pages, read_blocks, read_programs

TIMEOUT = 60.0
RUNNER = Path(__file__).with_name("block_runner.py")


def distinct_programs() -> list[Program]:
    """Every program once: a translation repeats the programs of its original byte for byte."""
    found: dict[tuple[object, ...], Program] = {}
    for page in pages():
        for program in read_programs(page):
            found.setdefault(program.identity, program)
    return list(found.values())


PROGRAMS = distinct_programs()


class Runner:
    """A process that has FastAPI and SQLAlchemy loaded and forks for each program."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, program: Program, directory: Path, environment: dict[str, str]) -> dict[str, Any]:
        """Run the blocks of one program and give what each printed or raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "directory": str(directory),
            "environment": environment,
            "unset": [name for name in os.environ if name.startswith("DATABASE_") and name not in environment],
            "timeout": TIMEOUT,
            "blocks": [
                {"page": b.where.rpartition(":")[0], "line": b.line, "source": b.source} for b in program.blocks
            ],
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    if not hasattr(os, "fork"):
        pytest.skip("the programs are run in forked processes, which this system does not have")
    process = Runner()
    yield process
    process.close()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_of_the_documentation_runs_and_prints_what_its_page_says(
    program: Program, runner: Runner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name, source in program.files:
        (tmp_path / name).write_text(source, encoding="utf-8")
    environment: dict[str, str] = {}
    if program.needs_postgresql:
        url = request.getfixturevalue("postgresql_url")
        environment["DATABASE_URL"] = url.replace("postgresql:", "postgresql+psycopg:", 1)
    name = program.blocks[0].file_name
    if name is not None and name.startswith("test_"):
        run_with_pytest(name, tmp_path)
        return
    answer = runner.run(program, tmp_path, environment)
    for block, result in zip(program.blocks, answer["blocks"], strict=False):
        check(block, result)
    if answer["status"] != "ok" or len(answer["blocks"]) != len(program.blocks):
        pytest.fail(f"{program.name}: {answer['status']}\n{answer['stderr']}", pytrace=False)


def check(block: Block, result: dict[str, Any]) -> None:
    """Compare what a block did with what its page says."""
    error = result["error"]
    shown = result["printed"]
    if block.expected_error is None:
        if error is not None:
            pytest.fail(f"{block.where}:\n{error['traceback']}", pytrace=False)
    elif error is None:
        pytest.fail(f"{block.where}: was to raise {block.expected_error} and did not", pytrace=False)
    elif block.expected_error not in {error["code"], error["name"]}:
        pytest.fail(f"{block.where}: was to raise {block.expected_error}\n{error['traceback']}", pytrace=False)
    elif block.output is not None:
        shown += error["text"] + "\n"
    expected = block.output or ""
    if not matches(expected, shown):
        pytest.fail(f"{block.where}: the page shows\n\n{expected}\nand the program gave\n\n{shown}", pytrace=False)


def matches(expected: str, shown: str) -> bool:
    """Whether the text is the expected one, where ``...`` stands for anything."""
    parts = (re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(".*?".join(parts), shown.strip(), re.DOTALL) is not None


def run_with_pytest(name: str, directory: Path) -> None:
    """Run a test file the way its reader would."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", name],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "DATABASE_"))},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documentation_has_programs() -> None:
    assert PROGRAMS


def write_page(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.fixture
def inside_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("docs.blocks.ROOT", tmp_path)
    return tmp_path


def test_a_python_block_can_not_be_left_out(inside_the_project: Path) -> None:
    page = write_page(inside_the_project, "<!-- not run: no time -->\n```python\nx = 1\n```\n")
    with pytest.raises(PageError, match="always run"):
        read_blocks(page)


def test_a_transcript_has_to_say_why_it_is_not_run(inside_the_project: Path) -> None:
    page = write_page(inside_the_project, "```console\n$ make\n```\n")
    with pytest.raises(PageError, match="says why"):
        read_blocks(page)


def test_an_indented_program_is_refused_because_it_would_not_run(inside_the_project: Path) -> None:
    page = write_page(inside_the_project, "- item\n\n    ```python\n    x = 1\n    ```\n")
    with pytest.raises(PageError, match="is not run"):
        read_blocks(page)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nprint(1)\n```\n",
        "```python\nassert False\n```\n",
        "<!-- run: expect-error ZeroDivisionError -->\n```python\n1 / 1\n```\n",
        "<!-- run: expect-error ZeroDivisionError -->\n```python\nint('x')\n```\n",
    ],
)
def test_a_page_that_is_wrong_fails(text: str, runner: Runner, inside_the_project: Path) -> None:
    (program,) = read_programs(write_page(inside_the_project, text))
    (result,) = runner.run(program, inside_the_project, {})["blocks"]
    with pytest.raises(pytest.fail.Exception):
        check(program.blocks[0], result)


def test_files_of_a_page_can_be_imported_and_blocks_continue(runner: Runner, inside_the_project: Path) -> None:
    page = write_page(
        inside_the_project,
        '```python title="models.py"\nname = "John"\n```\n'
        "text\n```python\nfrom models import name\n```\n"
        "<!-- run: continues -->\n```python\nprint(name)\n```\n\n```text\nJo...n\n```\n",
    )
    _, program = read_programs(page)
    for name, source in program.files:
        (inside_the_project / name).write_text(source)
    answer = runner.run(program, inside_the_project, {})
    assert answer["status"] == "ok"
    for block, result in zip(program.blocks, answer["blocks"], strict=True):
        check(block, result)
