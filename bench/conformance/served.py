"""A subject that is being served: its process, its log, its database, and the requests that checks send to it."""

import asyncio
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from sqlalchemy import make_url

from bench.conformance.apps.model import MISTAKE_VARIABLE, POOL_VARIABLE, URL_VARIABLE, WAIT_VARIABLE
from bench.conformance.databases import Database
from bench.conformance.subjects import Subject
from bench.postgresql import TESTS

if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
from support.clients import Answer, Connection, Request, send_burst

ROOT = Path(__file__).parent.parent.parent
START_TIMEOUT = 120.0  # seconds; a busy machine takes long to import
PATIENCE = 8.0  # seconds that a request may take where a check says nothing else


class DidNotStart(Exception):
    """The server ended by itself before it served; the message is the end of its log."""


class Served:
    """One subject on one database. It owns the process and its log; every check gets it running and at rest."""

    def __init__(self, subject: Subject, database: Database, python: Path) -> None:
        self.subject = subject
        self.database: Any = database
        self.port = 0
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._seen = 0

    async def restart(self, **options: Any) -> None:
        """Do what `start` does, from within a check."""
        await asyncio.to_thread(self.start, **options)

    def start(
        self,
        *,
        pool: int | None = None,
        wait: int | None = None,
        mistake: bool = False,
        children: int = 0,
        through: int | None = None,
    ) -> None:
        """Start the process, after ending the one that ran, and wait until it answers.

        `pool` connections, for which a request waits `wait` seconds; with the endpoint of B17; as so many forked
        children; with the database at another port.
        """
        self.kill()
        url = make_url(self.database.url)
        url = url if through is None else url.set(port=through)
        environment = os.environ | {URL_VARIABLE: url.render_as_string(hide_password=False), "PYTHONUNBUFFERED": "1"}
        if pool is not None:
            environment[POOL_VARIABLE] = str(pool)
        if wait is not None:
            environment[WAIT_VARIABLE] = str(wait)
        if mistake:
            environment[MISTAKE_VARIABLE] = "1"
        self._seen = self._log.seek(0, os.SEEK_END)
        self._process = subprocess.Popen(
            [str(self._python), "-m", "bench.conformance.serve", self.subject.name, "--fork", str(children)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        line = _read_line(self._process, START_TIMEOUT)
        if line is None:  # the machine's fault, not the subject's
            self.kill()
            raise RuntimeError(f"no server after {START_TIMEOUT:.0f} s")
        if not line.strip().isdigit():
            self.kill()
            raise DidNotStart(self.log()[-1500:] or "nothing in its log")
        self.port = int(line)
        self._wait_until_it_answers()

    def url(self, path: str) -> str:
        """Return the whole URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def ask(self, method: str, path: str, json: object = None, *, timeout: float = PATIENCE) -> Answer:
        """Send one request over a connection of its own; without an answer in time the status is 0."""
        connection = Connection()
        try:
            return await connection.send(Request(method, self.url(path), json), timeout=timeout)
        finally:
            connection.abort()

    async def burst(
        self, path: Any, n: int, *, concurrency: int, method: str = "GET", json: Any = None, timeout: float = PATIENCE
    ) -> Sequence[Answer]:
        """Send `n` requests over `concurrency` connections; see the tests' `send_burst`."""
        url = (lambda number: self.url(path(number))) if callable(path) else self.url(path)
        return await send_burst(url, n, concurrency=concurrency, method=method, json=json, timeout=timeout)

    def log(self) -> str:
        """Return what the server has written since its start."""
        self._log.seek(self._seen)
        return self._log.read().decode(errors="replace")

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.running:
            assert self._process is not None
            self._process.terminate()

    async def ended(self, *, within: float) -> float | None:
        """Wait for the process's end: the seconds that it took, or None when it takes longer."""
        started = time.monotonic()
        while self.running and time.monotonic() - started < within:
            await asyncio.sleep(0.02)
        return None if self.running else time.monotonic() - started

    def at_rest(self) -> bool:
        """Whether the next check may use this process: it answers, and holds nothing."""
        if not self.running:
            return False
        try:
            if asyncio.run(self.ask("GET", "/ping", timeout=2)).status != 200:
                return False
        except OSError:
            return False
        return self.database.kind != "postgresql" or self.database.settled(within=1) == 0

    def kill(self) -> None:
        """End the process at once, children included (they end with standard input). Safe to call twice."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()
        self._process = None

    def close(self) -> None:
        """End the process and drop the log."""
        self.kill()
        self._log.close()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.running:
            if asyncio.run(self.ask("GET", "/ping", timeout=2)).status == 200:
                return
            time.sleep(0.02)
        self.kill()
        raise DidNotStart(self.log()[-1500:] or "it answers nothing")


def _read_line(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """Return what stands before the next line end or the end; None when nothing comes in time."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout) else None
