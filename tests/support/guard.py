"""End what a run of the tests left running, once that run is over, however it ended.

This file is run as a script of its own (`python guard.py DIRECTORY`), in its own session, by the process
that pytest was started as. Its standard input is a pipe from there: when the pipe closes, the run is over,
be it interrupted or killed; a byte says that it finished. Only the standard library is used, so that it
starts in milliseconds.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

REGISTRY = "processes"
PATIENCE = 5.0


def register(directory: Path, pid: int, how: signal.Signals) -> None:
    """Note a process that the guard ends with the signal `how` if it outlives the run."""
    with (directory / REGISTRY).open("a") as registry:
        registry.write(f"{pid} {started(pid)} {int(how)}\n")


def started(pid: int) -> str:
    """Tell when a process started, so that a number given to another process is never mistaken for it."""
    fields = _fields(pid)
    return fields[19] if fields else "0"


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and waits to be reaped does not."""
    fields = _fields(pid)
    if fields is not None:
        return fields[0] not in "ZX"
    return not Path("/proc/self").exists() and _answers(pid)


def wait_gone(pid: int, patience: float) -> bool:
    """Wait until a process that need not be a child of ours has ended; `patience` in seconds."""
    deadline = time.monotonic() + patience
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _fields(pid: int) -> list[str] | None:
    """Read the fields of /proc/PID/stat from the state on; the name before it may hold spaces."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end_registered(directory: Path) -> None:
    registry = directory / REGISTRY
    lines = registry.read_text().splitlines() if registry.exists() else []
    ours = [(int(pid), int(how)) for pid, since, how in map(str.split, lines) if started(int(pid)) == since]
    for pid, how in ours:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    for pid, _ in ours:
        if not wait_gone(pid, PATIENCE):
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid, PATIENCE)


def _end_inhabitants(directory: Path) -> None:
    """End what nobody had registered yet: a server that was being prepared or started at this moment."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink().is_relative_to(directory):
                os.kill(int(link.parent.name), signal.SIGQUIT)


def _remove(directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while directory.exists() and time.monotonic() < deadline:
        _end_inhabitants(directory)
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for the end of the run, then clean up after it."""
    directory = Path(sys.argv[1])
    sys.stdin.buffer.read(1)
    _end_registered(directory)
    _remove(directory)


if __name__ == "__main__":
    main()
