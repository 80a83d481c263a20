"""Everything this library touches that the drivers do not document, in one place.

Seen in asyncpg 0.30 to 0.32. Each detail has a test in ``tests/core/test_internals.py``.

* ``asyncpg.Connection._transport``: asyncpg has no public way to the socket of a connection.
"""

from __future__ import annotations

from typing import Any


def asyncpg_socket(connection: Any) -> int | None:
    """Give the descriptor of an asyncpg connection's socket, or None when it has none any more."""
    socket = connection._transport.get_extra_info("socket")
    return None if socket is None else int(socket.fileno())
