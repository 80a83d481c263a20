"""A real uvicorn in a process of its own."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from support.run import Run

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0


class Server:
    """A running application: started by the constructor, which returns once it accepts connections.

    `env` is added to our environment, `args` to uvicorn's command line (one worker, no access log).
    """

    def __init__(
        self,
        app: str,
        *,
        run: Run,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        loop: Literal["auto", "asyncio", "uvloop"] = "auto",
    ) -> None:
        self.port = run.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = run.directory / f"uvicorn-{secrets.token_hex(8)}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command(app, args, loop)],
                cwd=ROOT,
                env={**os.environ, **_surroundings(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt at the keyboard is for pytest, which ends this
            )
        run.adopt(self.pid, how=signal.SIGKILL)
        self._wait_until_it_accepts()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """What the process ended with (negative: the signal), or None while it runs."""
        return self._process.poll()

    def log(self) -> str:
        """Give all that the server has written so far, to either output."""
        return self._log.read_text(errors="replace")

    def stop(self, *, patience: float = PATIENCE) -> int:
        """End it with SIGTERM and give its return code; after `patience` seconds kill it and raise."""
        if self.returncode is None:
            self._process.terminate()
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"uvicorn did not end within {patience} s of SIGTERM:\n{self.log()}") from None

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended already."""
        self._process.kill()
        self._process.wait()

    def _command(self, app: str, args: Sequence[str], loop: str) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--loop", loop, "--no-access-log"]
        return ["uvicorn", app, *options, *args]

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._accepts():
            if self.returncode is not None:
                raise RuntimeError(f"uvicorn ended with {self.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"uvicorn accepts no connection after {PATIENCE} s:\n{self.log()}")
            time.sleep(0.01)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Gunicorn(Server):
    """The same under gunicorn, which loads the application and then forks its workers: `args` says how many."""

    def _command(self, app: str, args: Sequence[str], loop: str) -> list[str]:
        options = ["--bind", f"127.0.0.1:{self.port}", "--preload", "--worker-class", "asgi", "--no-control-socket"]
        return ["gunicorn", app, *options, *args]


def _surroundings() -> dict[str, str]:
    """Let the server import what tests import, and write its log at once."""
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
