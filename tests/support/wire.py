"""What goes over the wire to PostgreSQL: a relay between a client and the server that counts and does nothing else.

It reads the messages of protocol 3 (PostgreSQL's documentation, "Frontend/Backend Protocol", "Message Formats").
A round trip is what ends with ReadyForQuery: whatever the client sent before it, it waited once.
Encryption is not followed: clients have to ask for none (`PGSSLMODE=disable`, `PGGSSENCMODE=disable`).
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CHUNK = 65536


class Wire:
    """The relay: `port` is where clients connect, the rest is what was seen since `clear()`."""

    def __init__(self, host: str, port: int) -> None:
        self.round_trips = 0
        self.statements: list[str] = []
        self._server = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listening]
        self.port: int = self._listening.getsockname()[1]
        self._run(self._accept)

    def clear(self) -> None:
        """Forget what was seen."""
        self.round_trips = 0
        self.statements = []

    def close(self) -> None:
        """Cut every connection and wait for the threads."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            self._run(lambda client=client, server=server: self._pump(client, server, self._sent()))
            self._run(lambda client=client, server=server: self._pump(server, client, self._answered()))

    def _pump(self, source: socket.socket, target: socket.socket, seen: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                seen(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _sent(self) -> Callable[[bytes], None]:
        """Follow a client's messages; note a statement when it is executed, not when it is prepared."""
        prepared: dict[bytes, str] = {}

        def message(kind: bytes, body: bytes) -> None:
            match kind:
                case b"Q":
                    self.statements.append(body.rstrip(b"\0").decode())
                case b"P":
                    name, text, _ = body.split(b"\0", 2)
                    prepared[name] = text.decode()
                case b"B":
                    _, name, _ = body.split(b"\0", 2)
                    self.statements.append(prepared[name])

        return _messages(message, untyped_first=True)

    def _answered(self) -> Callable[[bytes], None]:
        def message(kind: bytes, body: bytes) -> None:
            self.round_trips += kind == b"Z"

        return _messages(message, untyped_first=False)

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        self._threads.append(thread)


@contextmanager
def watched(host: str, port: int) -> Iterator[Wire]:
    """Give a relay to a server for as long as the block runs."""
    wire = Wire(host, port)
    try:
        yield wire
    finally:
        wire.close()


def _messages(message: Callable[[bytes, bytes], None], *, untyped_first: bool) -> Callable[[bytes], None]:
    """Cut a stream into messages; a client's first one has no letter for its kind."""
    buffer = b""
    untyped = untyped_first

    def feed(data: bytes) -> None:
        nonlocal buffer, untyped
        buffer += data
        while len(buffer) >= 5:
            letter = 0 if untyped else 1
            length = int.from_bytes(buffer[letter : letter + 4], "big")
            if len(buffer) < letter + length:
                return
            if not untyped:
                message(buffer[:1], buffer[5 : 1 + length])
            buffer, untyped = buffer[letter + length :], False

    return feed
