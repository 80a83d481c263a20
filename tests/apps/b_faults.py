"""Addresses at which no database answers."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def black_hole(*, accepts: bool) -> Iterator[int]:
    """Listen on a port without ever answering; without `accepts` even the connection is never made."""
    with socket.create_server(("127.0.0.1", 0), backlog=512 if accepts else 0) as listener:
        port = listener.getsockname()[1]
        full: list[socket.socket] = []
        while not accepts:
            one = socket.socket()
            full.append(one)
            one.settimeout(0.2)
            try:
                one.connect(("127.0.0.1", port))
            except TimeoutError:  # the queue is full: from now on the system drops what comes
                break
        yield port
        for one in full:
            with suppress(OSError):
                one.close()
