"""Run programs of the documentation, each in a process of its own.

Importing FastAPI and SQLAlchemy costs a second or two, so this process does it once and forks for each
program: what a reader runs with ``python page.py`` starts from the same place in milliseconds.

Protocol: one JSON object per line in, one per line out. Run as a script by test_code_blocks.py; it
knows nothing of pytest.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import linecache
import os
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from typing import Any

PRELOAD = ("fastapi.testclient", "sqlalchemy.ext.asyncio", "aiosqlite", "psycopg", "fastapi_database")


def main() -> None:
    """Answer requests until standard input ends."""
    warnings.simplefilter("ignore")
    for name in PRELOAD:
        with contextlib.suppress(ImportError):  # a program that needs it will say so itself
            __import__(name)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(_fork(request)) + "\n")
        answers.flush()


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    result = os.path.join(request["directory"], ".result.json")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _in_child(request, result)
            status = 0
        except BaseException:
            traceback.print_exc()
        _exit(status)
    status = _wait(child, request["timeout"])
    blocks = []
    with contextlib.suppress(FileNotFoundError), open(result, encoding="utf-8") as file:
        blocks = json.load(file)
    with open(os.path.join(request["directory"], ".stderr"), encoding="utf-8", errors="replace") as file:
        return {"status": status, "blocks": blocks, "stderr": file.read()}


def _exit(status: int) -> None:
    """End as Python does, so that a program that would keep its reader waiting at its end is found.

    Only the destruction of all modules is left out: it costs a second and shows nothing.
    """
    threading._shutdown()  # no public name; what Py_Finalize calls to wait for threads, since Python 3.0
    atexit._run_exitfuncs()  # and this it calls next
    os._exit(status)


def _wait(child: int, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return "ok" if code == 0 else f"exit code {code}"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"still running after {timeout:g} s"


def _in_child(request: dict[str, Any], result: str) -> None:
    os.chdir(request["directory"])
    stderr = os.open(".stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.environ.update(request["environment"])
    for name in request["unset"]:
        os.environ.pop(name, None)
    sys.path[:1] = [request["directory"]]
    sys.argv = ["program.py"]
    done = _run(request["blocks"])
    with open(result, "w", encoding="utf-8") as file:
        json.dump(done, file)


def _run(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    done: list[dict[str, Any]] = []
    for block in blocks:
        printed = io.StringIO()
        error = None
        with contextlib.redirect_stdout(printed):
            try:
                # Padded, so that a traceback names the line of the page.
                source = "\n" * (block["line"] - 1) + block["source"]
                linecache.cache[block["page"]] = (
                    len(source),
                    None,
                    source.splitlines(keepends=True),
                    block["page"],
                )
                exec(compile(source, block["page"], "exec"), module.__dict__)
            except BaseException as caught:
                error = {
                    "code": getattr(caught, "code", None),
                    "name": type(caught).__name__,
                    "text": f"{type(caught).__name__}: {caught}",
                    "traceback": traceback.format_exc(),
                }
        done.append({"printed": printed.getvalue(), "error": error})
        if error is not None:
            break
    return done


if __name__ == "__main__":
    main()
