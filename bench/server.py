"""A server of one peer in a process of its own: start, read its CPU and memory, kill, start again."""

import asyncio
import http.client
import os
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import IO, ClassVar

from bench import environments
from bench.apps.model import URL_VARIABLE
from bench.subjects import ENDPOINTS, Peer

START_TIMEOUT = 120.0  # seconds; a second where nothing else runs
WARMING = 10  # requests per endpoint before a new server is measured
TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parent.parent


class Server:
    """One peer on one database. It owns the process and its log."""

    environment: ClassVar[Mapping[str, str]] = {}
    """What is added to the environment of the process."""

    def __init__(self, peer: Peer, url: str) -> None:
        self.peer = peer
        self.port = 0
        self._url = url
        self._process: Process | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)

    async def start(self) -> None:
        """Start the process and warm it up, one request at a time."""
        self._process = await asyncio.create_subprocess_exec(
            *(environments.python(self.peer.environment), "-m", "bench.serve", self.peer.name),
            cwd=ROOT,
            env=os.environ | {URL_VARIABLE: self._url} | self.environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_TIMEOUT)
        if not line.strip().isdigit():
            raise RuntimeError(f"the server of {self.peer.name} did not start:\n{self.log_tail()}")
        self.port = int(line)
        await asyncio.to_thread(self._warm_up)

    def ask(self, request: bytes) -> tuple[int, str, bytes]:
        """Send one raw request; return status, content type and body."""
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.decode().split(" ", 2)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_TIMEOUT)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.headers["content-type"], answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeError(f"the server of {self.peer.name} fails:\n{self.log_tail()}") from error
        finally:
            connection.close()

    def cpu_seconds(self) -> float | None:
        """Return user and system time of all threads so far, or None where there is no /proc."""
        assert self._process is not None
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except FileNotFoundError:
            return None
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_megabytes(self) -> float | None:
        """Return the resident memory, or None where there is no /proc."""
        assert self._process is not None
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except FileNotFoundError:
            return None
        return round(int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    async def replace(self) -> None:
        """Kill a server that stalled, threads and all, and start a new one."""
        await self._kill()
        await self.start()

    async def stop(self) -> None:
        """End the process. Safe to call twice."""
        await self._kill()
        self._log.close()

    def _warm_up(self) -> None:
        for _ in range(WARMING):
            for endpoint in ENDPOINTS:
                self.ask(endpoint.requests[0])

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def log_tail(self) -> str:
        """Return the end of what the server wrote to standard error."""
        time.sleep(0.2)  # what a dying process writes last
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]
