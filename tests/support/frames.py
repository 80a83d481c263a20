"""WebSocket messages over a bare socket, short ones: https://www.rfc-editor.org/rfc/rfc6455#section-5.2"""

import base64
import os
import socket

from support.clients import Request

_TEXT, _PING, _PONG = 0x81, 0x89, 0x8A  # each a whole message in one frame
_MASKED = 0x80
_SHORT = 125


def upgrade(url: str) -> Request:
    """Give the request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    return Request("GET", url, headers=headers)


def send(connection: socket.socket, message: str) -> None:
    """Send one message."""
    _send(connection, _TEXT, message.encode())


def receive(connection: socket.socket) -> str:
    """Read one message, and answer pings on the way. Raises `ConnectionError` when the server closes instead."""
    kind, length = _read(connection, 2)
    data = _read(connection, length)
    if kind == _PING:
        _send(connection, _PONG, data)
        return receive(connection)
    if kind != _TEXT or length > _SHORT:
        raise ConnectionError(f"the server sent {kind:#x} {data!r}")
    return data.decode()


def _send(connection: socket.socket, kind: int, data: bytes) -> None:
    """Send one frame; a client has to mask its bytes."""
    assert len(data) <= _SHORT
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    connection.sendall(bytes([kind, _MASKED | len(data)]) + mask + masked)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError(f"the server closed the connection after {data!r}")
        data += more
    return data
