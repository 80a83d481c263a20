"""One run of the tests: the directory its processes share, its ports, the guard that cleans up."""

import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import guard

# Outgoing connections take their ports from 32768 on (Linux): a server below never meets one of them.
PORTS = range(10_000, 32_000)
ROOM = 2 * 1024**3


class Run:
    """What all pytest processes of one invocation share.

    The process that pytest was started as owns it: it calls `create`, and `close` at the end. Workers of
    pytest-xdist open the same directory by its path.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls) -> "Run":
        """Make the directory and start the guard."""
        directory = Path(tempfile.mkdtemp(prefix="fastapi-database-tests-", dir=_place()))
        if os.geteuid() == 0:
            directory.chmod(0o711)  # PostgreSQL refuses to run as root: another user has to get through
        run = cls(directory)
        command = [sys.executable, "-I", "-S", str(Path(guard.__file__)), str(directory)]
        run._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return run

    def close(self) -> None:
        """Have the guard end everything that still runs, and wait for it."""
        if self._guard is not None:
            self._guard.communicate(b".")  # a closed pipe alone is not enough: a fork of ours may hold it open
            self._guard = None

    def adopt(self, pid: int, *, how: signal.Signals) -> None:
        """Have the guard end this process with the signal `how` if it outlives the run."""
        guard.register(self.directory, pid, how)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock that the other pytest processes of this run respect."""
        with (self.directory / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def free_port(self) -> int:
        """Reserve a port for this run that nobody listens on."""
        # A generator of its own: pytest-randomly seeds the global one the same way in every worker.
        for port in random.Random().sample(PORTS, 1000):
            if self._reserve(port) and _is_free(port):
                return port
        raise RuntimeError(f"no free port in {PORTS}")

    def _reserve(self, port: int) -> bool:
        ports = self.directory / "ports"
        ports.mkdir(exist_ok=True)
        try:
            (ports / str(port)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def passable(path: Path) -> bool:
    """Tell whether every user may pass through a directory and all that lie above it."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.resolve().parents))


def _place() -> Path:
    """Choose where data lives: in memory when there is room, else in the temporary directory."""
    for place in (Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if place.is_dir() and _serves(place):
            return place
    raise RuntimeError("no temporary directory that a user other than root may reach, with room for a database")


def _serves(place: Path) -> bool:
    if os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0):  # copied server binaries run from here
        return False
    if os.geteuid() == 0 and not passable(place):
        return False
    return os.access(place, os.W_OK) and shutil.disk_usage(place).free > ROOM


def _is_free(port: int) -> bool:
    return not any(_is_taken(*address, port) for address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")))


def _is_taken(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((host, port))
    except OSError as error:  # anything else: this machine has no such address, so nobody is on it
        return error.errno == errno.EADDRINUSE
    return False
