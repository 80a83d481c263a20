"""A TCP proxy in front of PostgreSQL that fails at a chosen step of the protocol.

It reads the messages that pass, one type byte and a length before each body
(https://www.postgresql.org/docs/current/protocol-message-formats.html), so a test can say "the connection is cut
after COMMIT has been sent and before its answer comes back" and get just that, on every driver.
"""

import asyncio
import enum
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from support.clients import reset_when_closed

T = TypeVar("T")
Side = Literal["client", "server"]
CLIENT: Side = "client"
SERVER: Side = "server"
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
PATIENCE = 30.0


@dataclass(frozen=True)
class Message:
    """One message of the protocol."""

    sender: Side
    kind: bytes
    """The type byte; empty for what a client sends before it is known."""
    body: bytes
    previous: bytes = b""
    """Type and body of the message that the same sender sent before."""

    @property
    def wire(self) -> bytes:
        """The bytes that travel."""
        return self.kind + struct.pack("!I", len(self.body) + 4) + self.body


Test = Callable[[Message], bool]


def sends(text: str) -> Test:
    """Recognise the message with which a client sends a statement, as a simple query or to be prepared."""

    def test(message: Message) -> bool:
        if message.sender != CLIENT or message.kind not in {b"Q", b"P"}:
            return False
        sql = message.body if message.kind == b"Q" else message.body.partition(b"\0")[2]
        return sql.upper().lstrip().startswith(text.upper().encode())

    return test


def answers(tag: str) -> Test:
    """Recognise the server's word that a statement is done, by its tag, such as ``COMMIT`` or ``INSERT``."""
    return lambda message: message.sender == SERVER and message.kind == b"C" and message.body.startswith(tag.encode())


def ready_after(tag: str) -> Test:
    """Recognise the server's readiness for the next statement after the one with this tag."""
    done = b"C" + tag.encode()
    return lambda message: message.sender == SERVER and message.kind == b"Z" and message.previous.startswith(done)


class Fault(enum.Enum):
    """What happens to both sides of a connection."""

    CUT = "cut"  # an orderly end: each side reads its end
    RESET = "reset"
    BLACK_HOLE = "black hole"  # both sides stay open, and nothing passes any more


@dataclass
class Rule:
    """A fault, and the message at which it happens: once, unless ``times`` says more."""

    test: Test
    fault: Fault | None
    """None where the message is only to be delayed."""
    part: float = 0.0
    """How much of the message still passes."""
    delay: float = 0.0
    """Seconds before that."""
    times: int = 1
    hit: threading.Event = field(default_factory=threading.Event)

    def takes(self, message: Message) -> bool:
        """Tell whether this is the message, and count it."""
        if self.times < 1 or not self.test(message):
            return False
        self.times -= 1
        self.hit.set()
        return True


class Proxy:
    """Listens on a port of its own, and passes on what it gets; :meth:`close` ends it.

    ``connects`` counts the connections that were made to it, whatever became of them.
    """

    def __init__(self, *, port: int, own_port: int = 0, host: str = "127.0.0.1") -> None:
        self._target = host, port
        self._own = own_port
        self._fault: Fault | None = None
        self._rules: list[Rule] = []
        self._pairs: set[_Pair] = set()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connects = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self.accept()

    @property
    def port(self) -> int:
        return self._own

    def fail(
        self, test: Test, fault: Fault | None = Fault.CUT, *, part: float = 0.0, delay: float = 0.0, times: int = 1
    ) -> Rule:
        """Have a fault happen at the next message that ``test`` is true for; its ``hit`` is set by then."""
        rule = Rule(test, fault, part, delay, times)
        self._rules.append(rule)
        return rule

    def forget(self) -> None:
        """Let everything pass again; what has happened to a connection stays."""
        self._rules.clear()
        self._fault = None

    def meet(self, fault: Fault | None) -> None:
        """Have every new connection meet a fault as soon as it is made, until the next call."""
        self._fault = fault

    def lead_to(self, port: int) -> None:
        """Have new connections lead to another server; those that are open stay where they are."""
        self._target = self._target[0], port

    def end_all(self, fault: Fault = Fault.RESET) -> int:
        """Have every open connection meet a fault now; the answer is how many."""

        async def end() -> int:
            pairs = list(self._pairs)
            for pair in pairs:
                pair.meet(fault)
            return len(pairs)

        return self._run(end())

    def refuse(self) -> None:
        """Stop listening: new connections are refused by the system, and nobody counts them."""

        async def refuse() -> None:
            if self._listener is not None:
                self._listener.close()
            self._listener = None

        self._run(refuse())

    def accept(self) -> None:
        """Listen, at the start and again after :meth:`refuse`."""

        async def accept() -> None:
            if self._listener is None:
                self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._own, backlog=512)
                self._own = self._listener.sockets[0].getsockname()[1]

        self._run(accept())

    def close(self) -> None:
        """End it, with all connections."""
        self.refuse()

        async def end() -> None:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # transports close in the turn after

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def rule_for(self, message: Message) -> Rule | None:
        """Give the fault that a message meets."""
        return next((rule for rule in self._rules if rule.takes(message)), None)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(PATIENCE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pair = _Pair(self, (reader, writer))
        self._pairs.add(pair)
        try:
            await pair.run(self._target, self._fault)
        except asyncio.CancelledError:
            pair.meet(Fault.RESET)
        finally:
            self._pairs.discard(pair)
            self._tasks.discard(task)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    """One client's connection, and ours to the server."""

    def __init__(self, proxy: Proxy, client: Streams) -> None:
        self._proxy = proxy
        self._client = client
        self._server: Streams | None = None
        self._single_bytes = 0  # answers to a question for encryption, which have no length
        self._dark = False

    async def run(self, target: tuple[str, int], fault: Fault | None) -> None:
        if fault is not None:
            self.meet(fault)
            if fault is Fault.BLACK_HOLE:
                await _until_gone(self._client[0])
            self._abort(self._client)
            return
        try:
            self._server = await asyncio.open_connection(*target)
        except OSError:
            self.meet(Fault.RESET)
            return
        try:
            with suppress(OSError, EOFError):
                await _first_of(self._pass_client(), self._pass_server())
            if self._dark:
                await _until_gone(self._client[0])
        finally:
            for streams in (self._client, self._server):
                streams[1].close()

    def meet(self, fault: Fault) -> None:
        self._dark = fault is Fault.BLACK_HOLE
        for streams in (self._client, self._server):
            if streams is None or self._dark:
                continue
            if fault is Fault.RESET:
                self._abort(streams)
            else:
                streams[1].close()

    def _abort(self, streams: Streams) -> None:
        connection: socket.socket | None = streams[1].get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            reset_when_closed(connection)
        streams[1].transport.abort()

    async def _pass_client(self) -> None:
        assert self._server is not None
        reader, (_, writer) = self._client[0], self._server
        while True:  # before it is known, a client sends messages without a type
            message = await self._read(CLIENT, reader, typed=False)
            code = struct.unpack("!I", message.body[:4])[0]
            if code in {SSL_REQUEST, GSS_REQUEST}:
                self._single_bytes += 1
            await self._pass(message, writer)
            if code not in {SSL_REQUEST, GSS_REQUEST}:
                break
        await self._pass_all(CLIENT, reader, writer)

    async def _pass_server(self) -> None:
        assert self._server is not None
        reader, writer = self._server[0], self._client[1]
        while True:
            kind = await reader.readexactly(1)
            if self._single_bytes and kind in {b"N", b"S"}:
                self._single_bytes -= 1
                writer.write(kind)
                continue
            first = await self._read(SERVER, reader, kind=kind)
            await self._pass(first, writer)
            break
        await self._pass_all(SERVER, reader, writer)

    async def _pass_all(self, sender: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        previous = b""
        while True:
            message = await self._read(sender, reader, previous=previous)
            await self._pass(message, writer)
            previous = message.kind + message.body

    async def _read(
        self,
        sender: Side,
        reader: asyncio.StreamReader,
        *,
        typed: bool = True,
        kind: bytes = b"",
        previous: bytes = b"",
    ) -> Message:
        if typed and not kind:
            kind = await reader.readexactly(1)
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        return Message(sender, kind, await reader.readexactly(length - 4), previous)

    async def _pass(self, message: Message, writer: asyncio.StreamWriter) -> None:
        rule = self._proxy.rule_for(message)
        if rule is None:
            writer.write(message.wire)
            await writer.drain()
            return
        await asyncio.sleep(rule.delay)
        if rule.fault is None:
            writer.write(message.wire)
            return
        writer.write(message.wire[: int(len(message.wire) * rule.part)])
        with suppress(OSError):
            await writer.drain()
        self.meet(rule.fault)
        raise EOFError


async def _first_of(*both: Coroutine[Any, Any, None]) -> None:
    """Run both directions until one of them ends."""
    tasks = [asyncio.ensure_future(one) for one in both]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_gone(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(65536):
            pass


@contextmanager
def proxied(port: int) -> Generator[Proxy]:
    """Run a proxy in front of a server for as long as the block lasts."""
    proxy = Proxy(port=port)
    try:
        yield proxy
    finally:
        proxy.close()
