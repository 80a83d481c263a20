"""A TCP proxy in front of PostgreSQL that cuts a connection after the server has answered COMMIT."""

import asyncio
from typing import Self


class CuttingProxy:
    """Forwards every byte, until it is told to cut the next connection on which a COMMIT is acknowledged."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.cuts = 0
        self._target = target
        self._armed = False
        self._server: asyncio.Server | None = None

    def cut_after_commit(self) -> None:
        """Cut the connection of the next COMMIT: its acknowledgement is not passed on."""
        self._armed = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            to_client.transport.abort()
            return
        committing = asyncio.Event()
        forth = asyncio.create_task(self._forward(client, to_server, committing))
        back = asyncio.create_task(self._return(server, to_client, committing))
        try:
            await asyncio.wait([forth, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (forth, back):
                task.cancel()
            for writer in (to_client, to_server):
                writer.transport.abort()

    async def _forward(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, committing: asyncio.Event
    ) -> None:
        while chunk := await client.read(65536):
            if self._armed and b"COMMIT" in chunk.upper():
                self._armed = False
                committing.set()
            to_server.write(chunk)
            await to_server.drain()

    async def _return(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, committing: asyncio.Event
    ) -> None:
        while chunk := await server.read(65536):
            if committing.is_set():
                self.cuts += 1
                return
            to_client.write(chunk)
            await to_client.drain()
