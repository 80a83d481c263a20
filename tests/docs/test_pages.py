"""The pages agree with the code, with each other and with their translations, and the site builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs import error_table
from docs.blocks import DOCS, ROOT, pages, read_blocks, relative
from fastapi_database.config import ENVIRONMENT, Settings
from fastapi_database.core import connections
from fastapi_database.engines import aiosqlite, dialect_for, postgresql, sqlite
from fastapi_database.web import health

SETTINGS = Settings(url="sqlite://")
KOREAN = DOCS / "ko"
TRANSLATED = sorted(KOREAN.rglob("*.md"))
ERRORS = sorted(page for page in (DOCS / "errors").glob("*.md") if page.name != "index.md")
HANGUL = re.compile("[가-힣]")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def prose(page: Path) -> Iterator[str]:
    """The lines of a page that are outside of fenced blocks."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield line


def headings(page: Path) -> list[int]:
    """The levels of a page's headings, in order."""
    return [len(line) - len(line.lstrip("#")) for line in prose(page) if re.match(r"#{1,6} ", line)]


def rows(page: Path) -> int:
    """How many rows the tables of a page have."""
    return sum(line.startswith("|") for line in prose(page))


def links(page: Path) -> list[str]:
    """The link targets of a page, outside of code."""
    text = re.sub(r"`[^`\n]*`", "", "\n".join(prose(page)))
    return [found["target"] for found in LINK.finditer(text)]


# Translations


@pytest.mark.parametrize("page", TRANSLATED, ids=relative)
def test_translation_has_the_structure_and_the_code_of_its_original(page: Path) -> None:
    original = DOCS / page.relative_to(KOREAN)
    assert original.exists(), "a translation of nothing"
    assert headings(page) == headings(original)
    assert rows(page) == rows(original)
    blocks = [(b.info, b.source, b.output, b.comment and b.comment[0], b.directives) for b in read_blocks(page)]
    assert blocks == [
        (b.info, b.source, b.output, b.comment and b.comment[0], b.directives) for b in read_blocks(original)
    ]


@pytest.mark.parametrize("page", TRANSLATED, ids=relative)
def test_translation_is_marked_as_korean_and_is_korean(page: Path) -> None:
    assert page.read_text(encoding="utf-8").startswith("---\nlanguage: ko\n")
    paragraphs = [
        line
        for line in "\n".join(prose(page)).split("\n\n")
        if re.search("[A-Za-z]{4}", line) and not re.match(r"<!--|---|\||```|# fastapi-database$", line.strip())
    ]
    assert [text for text in paragraphs if not HANGUL.search(text)] == []


def test_the_tutorial_and_the_front_page_are_translated() -> None:
    translated = {page.relative_to(KOREAN).as_posix() for page in TRANSLATED}
    assert {"index.md", "tutorial/from-the-copied-pattern.md"} <= translated


# Errors


def test_every_error_code_has_a_page_and_every_page_a_code() -> None:
    assert {page.stem for page in ERRORS} == error_table.codes()


@pytest.mark.parametrize("page", ERRORS, ids=relative)
def test_error_page_names_its_status_title_and_class_as_the_code_has_them(page: Path) -> None:
    lines = list(prose(page))
    at = lines.index(f"# {page.stem}")
    assert lines[at + 2] == error_table.heading(page.stem)


@pytest.mark.parametrize("page", ERRORS, ids=relative)
def test_error_page_says_what_happened_why_it_matters_and_what_to_do_with_an_executed_example(page: Path) -> None:
    sections = [line.removeprefix("## ") for line in prose(page) if line.startswith("## ")]
    assert sections == ["What happened", "Why it matters", "What to do", "An example"]
    (example,) = (block for block in read_blocks(page) if block.language == "python")
    assert page.stem in (example.output or ""), "the example does not show the code"


def test_error_tables_are_those_of_the_code() -> None:
    text = (DOCS / "errors" / "index.md").read_text(encoding="utf-8")
    assert error_table.raised_table() in text
    assert error_table.answered_table() in text


# Engine defaults (guarantee C0)

DEFAULTS = DOCS / "reference" / "engine-defaults.md"


def test_c0_every_option_given_to_create_engine_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi_database import Database

    given: dict[str, Any] = {}

    def create_engine(url: object, **options: Any) -> Any:
        given.update(options)
        raise InterruptedError

    monkeypatch.setattr(connections, "create_engine", create_engine)
    with pytest.raises(InterruptedError):
        _ = Database("sqlite://").engine
    names = {"pool_size": "max_connections", "max_overflow": "max_connections", "pool_timeout": "queue_timeout"}
    assert given
    for option, value in given.items():
        name = names.get(option, option)
        shown = {"max_connections": SETTINGS.max_connections, "queue_timeout": SETTINGS.queue_timeout}.get(name, value)
        assert listed(name if isinstance(value, type) else f"{name}={shown}"), f"{name}={shown}"


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite://", "pysqlite"),
        ("sqlite://", "aiosqlite"),
        ("postgresql://localhost/x", "psycopg"),
        ("postgresql://localhost/x", "asyncpg"),
    ],
)
def test_c0_every_argument_given_to_a_driver_is_listed(url: str, driver: str) -> None:
    arguments = dialect_for(url).connect_arguments(driver, {})
    assert arguments
    for name, value in arguments.items():
        assert listed(f"{name}={value}") or listed(name), name


def test_c0_every_pragma_and_every_number_is_listed() -> None:
    for name, value in sqlite.PRAGMAS.items():
        assert listed(f"PRAGMA {name}={value}")
    assert listed(f"timeout={sqlite.BUSY_TIMEOUT}")
    assert listed(f"connect_timeout={postgresql.CONNECT_TIMEOUT}")
    assert listed(f"max_waiting={SETTINGS.max_waiting}")
    for variable, argument in ENVIRONMENT.items():
        assert listed(variable)
        assert argument == "url" or listed(argument)
    text = DEFAULTS.read_text(encoding="utf-8")
    assert f"first {sum(aiosqlite.PREFETCH)} rows" in text
    assert f"After {connections.PING_AFTER:g} seconds of rest" in text
    assert f"for {health.ANSWERED_WITHIN:g} seconds before it asks again" in text
    assert f"question after {health.PROBE_TIMEOUT:g} seconds" in text


def test_c0_every_default_has_a_reason_and_a_switch_or_says_why_there_is_none() -> None:
    rows = [line for line in prose(DEFAULTS) if line.startswith("| ") and line.count(" | ") == 2]
    table = [line for line in rows if not line.startswith("| default")]
    assert table
    for line in table:
        default, reason, switch = (cell.strip() for cell in line.strip("|").split(" | "))
        assert default
        assert reason
        assert switch not in {"", "none"}, default


def listed(text: str) -> bool:
    """Whether a table of the page has this between backticks, as a whole word."""
    table = "\n".join(line for line in prose(DEFAULTS) if line.startswith("|"))
    whole = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
    return any(whole.search(code) for code in re.findall(r"`([^`]+)`", table))


# README.md


def test_the_readme_has_one_complete_application_of_at_most_45_lines() -> None:
    (block,) = (block for block in read_blocks(ROOT / "README.md") if block.language == "python")
    assert block.source.count("\n") <= 45


# The site


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path = target.partition("#")[0]
        assert not path or (page.parent / path).exists(), target


def configuration() -> dict[str, Any]:
    """The configuration of the site."""
    return tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def test_every_page_is_in_the_navigation_and_nothing_else() -> None:
    assert sorted(listed_in(configuration()["nav"])) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )


def listed_in(entry: Any) -> Iterator[str]:
    """The pages named in a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, list):
        for part in entry:
            yield from listed_in(part)
    else:
        for part in entry.values():
            yield from listed_in(part)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors, away from the sources."""
    if importlib.util.find_spec("zensical") is None and not os.environ.get("CI"):
        pytest.skip("the docs group is not installed")
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "zensical.toml", project)
    shutil.copytree(DOCS, project / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "site"


def test_the_site_builds_without_a_warning_and_has_every_page(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists()


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    outside = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
        r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon|preload))[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
        r"|@import\s+[^;]*//|url\([\"']?(?:https?:)?//"
    )
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        found = outside.search(file.read_text(encoding="utf-8"))
        assert found is None, f"{file.relative_to(site)}: {found and found[0]}"


def test_the_site_can_be_searched_in_both_languages(site: Path) -> None:
    index = (site / "search.json").read_text(encoding="utf-8")
    assert "ko/tutorial/from-the-copied-pattern.html" in index
    assert "unique-violation" in index
    assert HANGUL.search(index)


def test_each_page_of_the_site_says_its_language(site: Path) -> None:
    assert '<html lang="en"' in (site / "index.html").read_text(encoding="utf-8")
    assert '<html lang="ko"' in (site / "ko" / "index.html").read_text(encoding="utf-8")
