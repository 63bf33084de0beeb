"""The public port of a pod: a TCP relay in front of its sshd that can misbehave."""

from __future__ import annotations

import asyncio
import contextlib

from fakes.ports import find_free_port

CHUNK = 16 * 1024


class Relay:
    """
    Forwards one public port to a pod's sshd.

    :param host: Address to listen on.
    :param target: Port of the pod's sshd on the loopback interface; ``None`` refuses everybody.
    """

    def __init__(self, host: str, target: int | None) -> None:
        self._host = host
        self.target = target
        self.is_refusing = False
        self.is_silent = False
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._thawing: asyncio.TimerHandle | None = None
        self.bytes_per_second: int | None = None
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: list[asyncio.StreamWriter] = []

    async def open(self, port: int = 0) -> int:
        """Listen, on a given port when it is still free; return the port."""
        try:
            wanted = port or find_free_port()
            self._server = await asyncio.start_server(self._serve, self._host, wanted)
        except OSError:
            self._server = await asyncio.start_server(self._serve, self._host, 0)
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def close(self) -> None:
        """Stop listening and break all connections."""
        if self._server is not None:
            self._server.close()
        self._thaw()
        self.drop_connections()
        for writer in self._kept:
            writer.close()
        for task in list(self._tasks):
            task.cancel()

    def drop_connections(self) -> None:
        """Break all connections, as a network does that forgot them."""
        for client, server in list(self._pairs):
            client.transport.abort()
            server.transport.abort()

    def freeze(self, seconds: float) -> None:
        """Carry no byte for a while; the connections stay. Again says for how long from now on."""
        self._thaw()
        if seconds > 0:
            self._thawed.clear()
            self._thawing = asyncio.get_running_loop().call_later(seconds, self._thaw)

    def half_open(self, seconds: float) -> None:
        """Break the pod's side; the client is not told."""
        self.freeze(seconds)
        for _, server in list(self._pairs):
            server.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.is_silent:
                self._kept.append(writer)
                return
            if self.is_refusing or self.target is None:
                writer.transport.abort()
                return
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target)
        pair = (writer, upstream)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, upstream), self._pump(upstream_reader, writer))
        finally:
            self._pairs.discard(pair)
            upstream.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self.bytes_per_second or CHUNK):
                await self._thawed.wait()
                writer.write(data)
                await writer.drain()
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
        # Pass the end on, but not while the line is dead.
        await self._thawed.wait()
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()

    def _thaw(self) -> None:
        if self._thawing is not None:
            self._thawing.cancel()
        self._thawed.set()
