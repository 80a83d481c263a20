"""Read the code blocks of the documentation, and the conventions they follow.

A page is Markdown with fenced blocks. For the tests a block is one of these:

``python``
    A program. It runs in an empty directory with the page's files in it (see below), in a process of
    its own. Directives stand in an HTML comment on the line before the fence::

        <!-- run: standalone -->               the default: a new program
        <!-- run: continues -->                goes on where the block before it stopped
        <!-- run: expect-error CODE -->        must raise an error with this ``code`` (or of this class name)
        <!-- run: postgresql -->               gets a fresh PostgreSQL database in ``DATABASE_URL``

    Several are joined by commas.
``python title="name.py"``
    A file: written beside the programs of the page that follow it, and run like one. A file named
    ``test_*.py`` is run with pytest. A title that does not end in ``.py`` is only a heading.
``text`` right after a program
    What the program prints, or for ``expect-error`` the error as ``Class: message``. Compared exactly;
    ``...`` stands for anything.
    A program that prints without such a block fails.
``console``, ``bash``, ``sh``
    A transcript. It can not run, so it says why: ``<!-- not run: reason -->``. README.md may mark one for
    the newcomer's test instead: ``<!-- newcomer:run URL -->``.

Every other language is data and is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

PROGRAMS = {"python"}
TRANSCRIPTS = {"console", "bash", "sh", "shell"}
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)$")
COMMENT = re.compile(r"^<!--\s*(?P<kind>run|not run|newcomer)\s*:\s*(?P<text>.*?)\s*-->$")
TITLE = re.compile(r'title="(?P<title>[^"]*)"')
KNOWN = re.compile(r"standalone|continues|postgresql|expect-error [\w-]+")


class PageError(Exception):
    """A page breaks the conventions above."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block as it stands in a page."""

    page: Path
    line: int
    info: str
    source: str
    comment: tuple[str, str] | None
    output: str | None = None

    @property
    def language(self) -> str:
        """The first word of the info string."""
        return self.info.split(maxsplit=1)[0] if self.info else ""

    @property
    def title(self) -> str:
        """The heading over the block, or an empty string."""
        found = TITLE.search(self.info)
        return found["title"] if found else ""

    @property
    def file_name(self) -> str | None:
        """The name under which later programs find the block, if it is a file."""
        return self.title if self.title.endswith(".py") else None

    @property
    def directives(self) -> tuple[str, ...]:
        """The directives of ``<!-- run: … -->``."""
        if self.comment is None or self.comment[0] != "run":
            return ()
        return tuple(part.strip() for part in self.comment[1].split(","))

    @property
    def expected_error(self) -> str | None:
        """The code of the error the block has to raise."""
        for directive in self.directives:
            if directive.startswith("expect-error "):
                return directive.removeprefix("expect-error ").strip()
        return None

    @property
    def where(self) -> str:
        """The place of the first line, as editors write it."""
        return f"{relative(self.page)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Program:
    """Blocks that run one after another in one namespace, with the files they can import."""

    blocks: tuple[Block, ...]
    files: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """A name for the test report."""
        return self.blocks[0].where

    @property
    def needs_postgresql(self) -> bool:
        """Whether any block asks for a PostgreSQL database."""
        return any("postgresql" in block.directives for block in self.blocks)

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for programs that would do the same, such as those of a page and of its translation."""
        return (self.files, tuple((b.info, b.source, b.output, b.directives) for b in self.blocks))


def relative(page: Path) -> str:
    """The path of a page from the root of the project."""
    return page.relative_to(ROOT).as_posix()


def pages() -> list[Path]:
    """Every page that is checked: README.md and all Markdown below docs/, translations last."""
    found = sorted(DOCS.rglob("*.md"), key=lambda page: ("ko" in page.relative_to(DOCS).parts, page))
    readme = ROOT / "README.md"
    return [readme, *found] if readme.exists() else found


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order; each program with the output block that follows it."""
    lines = page.read_text(encoding="utf-8").split("\n")
    blocks: list[Block] = []
    index = 0
    follows_program = False
    while index < len(lines):
        opening = FENCE.match(lines[index])
        if opening is None:
            if lines[index].strip():
                follows_program = False
            index += 1
            continue
        end = _closing(lines, index, opening["ticks"], page)
        info = opening["info"].strip()
        source = "\n".join(lines[index + 1 : end]) + "\n"
        language = info.split(maxsplit=1)[0] if info else ""
        if opening["indent"] and language in PROGRAMS | TRANSCRIPTS:
            raise PageError(f"{relative(page)}:{index + 1}: an indented block is not run; move it to the margin")
        if language == "text" and follows_program:
            blocks[-1] = _with_output(blocks[-1], source)
            follows_program = False
        else:
            blocks.append(Block(page, index + 2, info, source, _comment(lines, index)))
            follows_program = language in PROGRAMS
        index = end + 1
    for block in blocks:
        _check(block)
    return blocks


def read_programs(page: Path) -> list[Program]:
    """All programs of a page, in order, each with the files shown above it."""
    programs: list[Program] = []
    files: dict[str, str] = {}
    for block in read_blocks(page):
        if block.language not in PROGRAMS:
            continue
        if "continues" in block.directives:
            if not programs or programs[-1].blocks[-1].file_name is not None:
                raise PageError(f"{block.where}: nothing to continue")
            programs[-1] = Program((*programs[-1].blocks, block), programs[-1].files)
            continue
        name = block.file_name
        if name is not None:
            files[name] = block.source
        programs.append(Program((block,), tuple(files.items())))
    return programs


def _closing(lines: list[str], start: int, ticks: str, page: Path) -> int:
    for index in range(start + 1, len(lines)):
        line = lines[index].strip()
        if line.startswith(ticks) and not line.strip("`"):
            return index
    raise PageError(f"{relative(page)}:{start + 1}: this block is never closed")


def _comment(lines: list[str], fence: int) -> tuple[str, str] | None:
    index = fence - 1
    while index >= 0 and not lines[index].strip():
        index -= 1
    found = COMMENT.match(lines[index].strip()) if index >= 0 else None
    return (found["kind"], found["text"]) if found else None


def _with_output(block: Block, output: str) -> Block:
    return Block(block.page, block.line, block.info, block.source, block.comment, output)


def _check(block: Block) -> None:
    kind = block.comment[0] if block.comment else None
    if block.language in PROGRAMS:
        if kind == "not run":
            raise PageError(f"{block.where}: Python is always run; only a transcript may be left out")
        for directive in block.directives:
            if not KNOWN.fullmatch(directive):
                raise PageError(f"{block.where}: unknown directive {directive!r}")
    elif block.language in TRANSCRIPTS and kind not in {"not run", "newcomer"}:
        raise PageError(f"{block.where}: a transcript says why it is not run: <!-- not run: reason -->")
