"""Serve one application of bench/apps, all with the same settings: `python -m bench.serve tutorial`.

The port is chosen by the system and printed. The server ends when its standard input does, so that no server
outlives the benchmark.
"""

import os
import socket
import sys
import threading
from importlib import import_module
from importlib.util import find_spec

import uvicorn

LOOP = "uvloop" if find_spec("uvloop") else "asyncio"
HTTP = "httptools" if find_spec("httptools") else "h11"


def main(name: str) -> None:
    """Serve the application `name` until standard input is closed."""
    app = import_module(f"bench.apps.{name}").app
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, loop=LOOP, http=HTTP, access_log=False, log_level="error")
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def end_with_standard_input() -> None:
    """Leave at once, stalled requests and all, when the benchmark closes the pipe or dies."""
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
