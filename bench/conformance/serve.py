"""Serve one application of bench/conformance/apps: `python -m bench.conformance.serve tutorial [--fork N]`.

uvicorn as its command line starts it, one worker, a graceful time-out of 5 s, port chosen by the system and printed.
With `--fork` the application uses its database first and N children serve then on one socket, as `gunicorn --preload`
does. The server ends when its standard input does, so that none outlives the run.
"""

import os
import signal
import socket
import sys
import threading
from importlib import import_module
from typing import Any

import uvicorn

GRACE = 5  # seconds, B16


def main(name: str, *, children: int = 0) -> None:
    """Serve the application `name` until SIGTERM, or until standard input is closed."""
    module = import_module(f"bench.conformance.apps.{name}")
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    if children:
        module.use_before_fork()
        _serve_forked(module.app, listening, children)
    else:
        print(listening.getsockname()[1], flush=True)
        threading.Thread(target=_end_with_standard_input, daemon=True).start()
        _serve(module.app, listening)


def _serve(app: Any, listening: socket.socket) -> None:
    config = uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=GRACE)
    uvicorn.Server(config).run(sockets=[listening])


def _serve_forked(app: Any, listening: socket.socket, children: int) -> None:
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            _serve(app, listening)
            os._exit(0)
        pids.append(pid)
    print(listening.getsockname()[1], flush=True)
    while os.read(0, 1024):
        pass
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _end_with_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], children=int(sys.argv[3]) if "--fork" in sys.argv else 0)
