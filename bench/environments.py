"""A virtual environment for every peer that is a library, so that none decides what another one gets.

`requirements/NAME.in` says what a peer needs, `requirements/NAME.txt` has every version of it. `python -m bench
lock` writes the second from the first: the newest versions, where the packages that everybody shares (FastAPI,
SQLAlchemy, drivers, server) have the versions of the project's own `uv.lock`. A peer that does not take those gets
the newest that it takes, and the tables say so. The patterns written by hand and ours run in the environment of the
benchmark itself, which is the project's own.

All servers run the Python that runs the benchmark, or the one that `FASTAPI_DATABASE_BENCH_PYTHON` names: a path.
Then the patterns written by hand and ours get an environment too, `project`, with that Python.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = Path(__file__).parent / "requirements"
ENVIRONMENTS = Path(__file__).parent / ".environments"
VARIABLE = "FASTAPI_DATABASE_BENCH_PYTHON"
COMMON = "common"
PROJECT = "project"
OLDEST_PYTHON = "3.11"  # the lock files hold for it and for all newer ones
ASK = "import platform; print(platform.python_version())"
STAMP = "made-from.txt"  # written last: without it an environment is not complete


def names() -> list[str]:
    """Return the names of the peers that have an environment of their own."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.in") if path.stem not in (COMMON, PROJECT))


def python(name: str) -> Path:
    """Return the Python of a peer's environment; make the environment first, if it is not there or out of date.

    A peer without requirements of its own runs in the environment of the benchmark itself. Making one takes seconds,
    and without uv's cache the network. What was made is reused until the lock file or the interpreter changes.

    Raises:
        SystemExit: there is no uv, or it failed: its own words stand in the message.
    """
    environment = _environment(name)
    if environment is None:
        return Path(sys.executable)
    directory = ENVIRONMENTS / environment
    interpreter = directory / "bin" / "python"
    base, lock_file = os.environ.get(VARIABLE, sys.executable), _lock_file(environment)
    wanted = f"{base}\n{ROOT}\n{lock_file.read_text()}"
    stamp = directory / STAMP
    if not stamp.exists() or stamp.read_text() != wanted:
        started = time.monotonic()
        print(f"environment of {environment}: installing {lock_file.relative_to(ROOT)}", flush=True)
        _uv("venv", "--clear", "--no-project", "--python", base, str(directory))
        _uv("pip", "sync", "--compile-bytecode", "--python", str(interpreter), str(lock_file))
        if environment == PROJECT:
            (_site_packages(environment) / "project.pth").write_text(f"{ROOT / 'src'}\n")
        stamp.write_text(wanted)
        print(f"environment of {environment}: done in {time.monotonic() - started:.0f} s", flush=True)
    return interpreter


def packages(name: str) -> dict[str, str]:
    """Return the versions that are installed for a peer; its environment must have been made."""
    environment = _environment(name)
    path = sys.path if environment is None else [str(_site_packages(environment))]
    return {one.name.lower().replace("_", "-"): one.version for one in distributions(path=path)}


def describe(name: str) -> dict[str, str]:
    """Make a peer's environment if need be; return its Python, its library, and what differs from the project's."""
    interpreter, _ = python(name), python("")
    asked = subprocess.run([interpreter, "-c", ASK], check=True, stdout=subprocess.PIPE, text=True)
    library, ours = name.replace("_", "-"), packages("")
    theirs = packages(name) if name else {}
    shown = {one: there for one, there in theirs.items() if one == library or ours.get(one) != there}
    return {"python": asked.stdout.strip()} | shown


def lock() -> None:
    """Resolve every peer's requirements again, with the shared packages as the project's own lock file has them."""
    with tempfile.TemporaryDirectory() as directory:
        ours = Path(directory) / "constraints.txt"
        everything = ("--all-groups", "--all-extras", "--no-emit-project", "--no-hashes", "--no-annotate")
        _uv("export", "--frozen", "--quiet", "--no-header", *everything, "--output-file", str(ours))
        for name in (PROJECT, *names()):
            if not _resolve(name, "--constraints", str(ours)):
                print(f"{name} does not take the project's versions: it gets the newest that it takes", flush=True)
                if not _resolve(name):
                    raise SystemExit(f"{name} can not be resolved: what uv says stands above.")
            print(f"{_lock_file(name).relative_to(ROOT)}", flush=True)


def _resolve(name: str, *constraints: str) -> bool:
    source, target = REQUIREMENTS / f"{name}.in", str(_lock_file(name))
    for_all = ("--universal", "--python-version", OLDEST_PYTHON, "--upgrade", "--no-annotate", "--no-header")
    command = [_executable(), "pip", "compile", "--quiet", *for_all, *constraints, str(source), "-o", target]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _lock_file(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def _environment(name: str) -> str | None:
    """Return whose environment a peer runs in, or None for the one that runs this."""
    if name in names():
        return name
    return PROJECT if VARIABLE in os.environ else None


def _site_packages(environment: str) -> Path:
    return next((ENVIRONMENTS / environment).glob("lib/python*/site-packages"))


def _uv(*arguments: str) -> None:
    done = subprocess.run([_executable(), *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"uv {' '.join(arguments)} failed:\n{done.stderr}")


def _executable() -> str:
    """Find uv: `uv run` says where it is itself, `make` has put it into the checkout, or it is on the path."""
    for candidate in (os.environ.get("UV"), str(ROOT / ".uv" / "bin" / "uv"), shutil.which("uv")):
        if candidate and Path(candidate).exists():
            return candidate
    raise SystemExit("The peers' environments are made by uv: use `make bench`, or put uv on the path.")
