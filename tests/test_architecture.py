"""The house: imports run one way, nothing heavy is loaded, private details stand where they are looked after."""

import ast
import asyncio
import doctest
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastapi_database

SOURCE = Path(fastapi_database.__file__).parent
PACKAGE = "fastapi_database"
# errors, events, config <- engines <- core <- {web, statements} <- {migrations, testing, telemetry, dashboard} <- cli
LEVELS = [
    {"errors", "events", "config"},
    {"engines"},
    {"core"},
    {"web", "statements"},
    {"migrations", "testing", "telemetry", "dashboard"},
    {"cli"},
    {"__init__"},
]
WEB_FRAMEWORKS = {"fastapi", "starlette"}
WITH_FASTAPI = {"web", "__init__"}
DRIVERS = {"psycopg", "psycopg2", "asyncpg", "aiosqlite"}
NOT_LOADED = {*DRIVERS, "alembic", "jinja2", "uvicorn", "sqlmodel", "pytest"}
OF_A_DRIVER = {
    "engines/aiosqlite.py",
    "engines/adapted.py",
}  # imported when that driver connects, and about nothing else
INTERNALS = {"engines/internals.py", "core/internals.py", "web/internals.py", *OF_A_DRIVER}
FOREIGN = {"fastapi", "starlette", "sqlalchemy", "anyio", "asyncio", "pydantic", "greenlet", *DRIVERS}
EXPORTED = {f"asyncio.{name}" for name in asyncio.__all__}  # with an underscore, and yet for everybody
SCOPE_KEYS = re.compile(r"fastapi_inner_astack|fastapi_function_astack|starlette\.\w+|effective_route_context")
MODULE_NAMES = re.compile(r"(fastapi|starlette|sqlalchemy|anyio)\.[\w.]+")


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def part_of(module: str) -> str:
    """Give the part of the house a module of ours belongs to: `fastapi_database.web.route` to `web`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def level(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str], int]]:
    """Give every import: the module, the names taken from it, the line. Those for type checkers do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or "", [alias.name for alias in node.names], node.lineno
        else:
            yield from imports(node)


def modules_imported(path: Path) -> Iterator[tuple[str, int]]:
    """Give the modules of ours that a file imports; `from fastapi_database import errors` imports `errors`."""
    for module, names, line in imports(ast.parse(path.read_text())):
        if module == PACKAGE:
            yield from ((f"{PACKAGE}.{name}", line) for name in names)
        elif module.startswith(f"{PACKAGE}."):
            yield module, line


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    own = part_of(".".join([PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts]))
    for module, line in modules_imported(path):
        part = part_of(module)
        assert part == own or level(part) <= level(own), f"{name_of(path)}:{line} imports {module}"
        if part != own and level(part) == level(own):
            # Beside each other only errors, events and config, which are one foundation.
            assert level(own) == 0, f"{name_of(path)}:{line} imports its neighbour {module}"


def test_every_part_has_its_level() -> None:
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in sources()}
    assert parts <= set().union(*LEVELS)


def test_errors_import_nothing_of_ours() -> None:
    assert list(modules_imported(SOURCE / "errors.py")) == []


@pytest.mark.parametrize("path", [path for path in sources() if name_of(path) not in OF_A_DRIVER], ids=name_of)
def test_only_web_knows_fastapi_and_nothing_imports_a_driver_when_it_is_loaded(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for module, _, line in imports(tree):
        if module.partition(".")[0] in WEB_FRAMEWORKS:
            assert path.relative_to(SOURCE).parts[0].removesuffix(".py") in WITH_FASTAPI, f"{name_of(path)}:{line}"
    at_module_level = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
    for module, _, line in imports(at_module_level):
        assert module.partition(".")[0] not in DRIVERS, f"{name_of(path)}:{line}"


def test_importing_the_package_loads_no_driver_and_nothing_heavy() -> None:
    script = """
import json, sys
import fastapi, sqlalchemy.ext.asyncio
theirs = sorted(sys.modules)
import fastapi_database
print(json.dumps([theirs, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    theirs, loaded = ({name.partition(".")[0] for name in names} for names in json.loads(done.stdout))
    assert loaded & DRIVERS == set()
    assert loaded & (NOT_LOADED - theirs) == set()
    ours = loaded - theirs - sys.stdlib_module_names - {PACKAGE}
    assert ours <= {"greenlet"}, "an import that no dependency had"


def test_the_orm_is_imported_with_the_first_database_and_not_with_the_package() -> None:
    script = """
import sys
import fastapi_database
assert "sqlalchemy.orm" not in sys.modules
fastapi_database.Database("sqlite://")
assert "sqlalchemy.orm" in sys.modules, "the first request would import it"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_top_level_has_at_most_15_names() -> None:
    public = fastapi_database.__all__
    assert len(public) <= 15
    assert public == sorted(public)
    for name in public:
        assert inspect.getdoc(getattr(fastapi_database, name)), name
    others = {name for name in vars(fastapi_database) if not name.startswith("_")} - set(public)
    assert others <= {path.name.removesuffix(".py") for path in SOURCE.iterdir()}, "a name that __all__ does not have"


def test_private_details_of_others_stand_in_the_internals() -> None:
    """Names with an underscore, scope keys and modules that FastAPI, Starlette and SQLAlchemy do not document."""
    own = own_private_names()
    found = [
        f"{name_of(path)}:{line}: {detail}"
        for path in sources()
        if name_of(path) not in INTERNALS
        for line, detail in private_details(ast.parse(path.read_text()), own)
    ]
    assert found == []


def test_the_internals_say_in_which_versions_each_detail_was_seen() -> None:
    for name in INTERNALS:
        module = importlib.import_module(f"{PACKAGE}.{name.removesuffix('.py').replace('/', '.')}")
        versions = r"Seen in .*\d+\.\d+(.* to \d+|\.\d+, the oldest and the newest)"
        assert re.search(versions, inspect.getdoc(module) or ""), name


@pytest.mark.parametrize(
    "module", [PACKAGE, *(one.name for one in pkgutil.walk_packages([str(SOURCE)], f"{PACKAGE}."))]
)
def test_examples_in_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0


def test_what_is_public_is_shown_by_an_example() -> None:
    finder = doctest.DocTestFinder()
    shown = {
        name
        for name in fastapi_database.__all__
        if any(test.examples for test in finder.find(getattr(fastapi_database, name), name))
    }
    assert shown >= {"APIRouter", "Database", "DatabaseRoute", "errors"}


def test_no_function_and_no_module_keeps_state() -> None:
    """At module level stand constants, types and loggers."""
    found = [
        f"{name_of(path)}:{node.lineno}: {target.id}"
        for path in sources()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.isupper() and target.id not in {"__all__", "logger"}
        if not re.fullmatch(r"_?[A-Z]\w*|_[A-Z_]+", target.id)
    ]
    assert found == []


def own_private_names() -> set[str]:
    """Collect every private name that our code defines itself."""
    names: set[str] = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                names.add(node.value)  # __slots__
    return names


def private_details(tree: ast.AST, own: set[str]) -> Iterator[tuple[int, str]]:
    for module, names, line in imports(tree):
        if module.partition(".")[0] in FOREIGN:
            private = [part for part in [*module.split("."), *names] if part.startswith("_")]
            if private:
                yield line, f"import of {module}: {', '.join(private)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr) and node.attr not in own:
            if ast.unparse(node) not in EXPORTED:
                yield node.lineno, f"attribute {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if SCOPE_KEYS.fullmatch(node.value):
                yield node.lineno, f"scope key {node.value!r}"
            elif MODULE_NAMES.fullmatch(node.value):
                yield node.lineno, f"module {node.value!r}"
            elif re.fullmatch(r"__sqlalchemy_\w+", node.value):
                yield node.lineno, f"mark {node.value!r}"
