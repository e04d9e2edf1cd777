"""A network that can be made to fail: a TCP proxy on the loopback address between a process and what it talks to.

Rules:
1. It forwards faithfully until told otherwise: order, half-closed connections and resets included.
2. A blackhole loses no byte, as TCP loses none: what was sent meanwhile waits, unacknowledged by any answer, and
   arrives when the network heals. New connections are accepted, and nobody answers.
3. A cut closes with FIN and refuses who comes; a reset closes with RST, once, and lets new connections through.
4. It runs in a thread of its own, and every method returns when its effect is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

LOOPBACK = "127.0.0.1"
BLOCK_BYTES = 1 << 16
BLOCKS_HELD_MAX = 256
CALL_SECONDS_MAX = 10.0
# SO_LINGER on, with no time: closing sends RST (socket(7)).
LINGER_NOT = struct.pack("ii", 1, 0)


class Direction(StrEnum):
    """Which way bytes go."""

    TO_UPSTREAM = "to upstream"
    TO_CLIENT = "to client"


class FaultProxy:
    """Forwards `port` to `upstream_port`. Used as a context manager."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream = (LOOPBACK, upstream_port)
        self._listener = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_seconds = 0.0
        self._bytes_until_flip: dict[Direction, int] = {}
        self._bytes_passed = dict.fromkeys(Direction, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def bytes_passed(self, direction: Direction) -> int:
        """How many bytes have gone that way since the start."""
        return self._bytes_passed[direction]

    def delay(self, seconds: float) -> None:
        """Let every byte take so long on its way, in each direction, from now on."""
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Close every connection with FIN, and refuse new ones until healed."""
        self._do(self._cut())

    def reset(self) -> None:
        """Close every connection with RST; new ones go through."""
        self._do(self._end_connections(by_reset=True))

    def blackhole(self) -> None:
        """Let nothing arrive on either side until healed: connections stay open and silent."""
        self._do(self._freeze())

    def flip_byte(self, direction: Direction, after_bytes: int) -> None:
        """Invert one byte: the one that comes after so many more in that direction, whatever its connection."""
        self._bytes_until_flip[direction] = after_bytes

    def heal(self) -> None:
        """Forward faithfully again."""
        self._do(self._heal())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS_MAX)

    async def _listen(self) -> None:
        if self._accepting is None:
            self._accepting = self._loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            connection = _Connection(client)
            task = self._loop.create_task(self._serve(connection))
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)

    async def _cut(self) -> None:
        if self._accepting is not None:
            await _cancelled(self._accepting)
            self._accepting = None
            self._listener.close()
        await self._end_connections(by_reset=False)

    async def _freeze(self) -> None:
        self._flowing.clear()

    async def _heal(self) -> None:
        self._delay_seconds = 0.0
        self._bytes_until_flip.clear()
        self._flowing.set()
        if self._accepting is None:
            self._listener = _listening(self.port)
            await self._listen()

    async def _end_connections(self, *, by_reset: bool) -> None:
        for task, connection in list(self._connections.items()):
            connection.by_reset = by_reset
            await _cancelled(task)

    async def _serve(self, connection: _Connection) -> None:
        try:
            await self._flowing.wait()
            upstream = connection.add_upstream()
            await self._loop.sock_connect(upstream, self._upstream)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pump(connection.client, upstream, Direction.TO_UPSTREAM))
                both_ways.create_task(self._pump(upstream, connection.client, Direction.TO_CLIENT))
        except* OSError:  # what one side did not end well ends badly for the other as well
            connection.by_reset = True
        finally:
            connection.close()

    async def _pump(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        """Two halves, so that a delay is a long way and not a narrow one."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(BLOCKS_HELD_MAX)
        async with asyncio.TaskGroup() as halves:
            halves.create_task(self._take(source, on_the_way))
            halves.create_task(self._deliver(on_the_way, target, direction))

    async def _take(self, source: socket.socket, on_the_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"first"
        while data:
            data = await self._loop.sock_recv(source, BLOCK_BYTES)
            await on_the_way.put((self._loop.time() + self._delay_seconds, data))

    async def _deliver(
        self, on_the_way: asyncio.Queue[tuple[float, bytes]], target: socket.socket, direction: Direction
    ) -> None:
        while True:
            due_at, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due_at - self._loop.time()))
            await self._flowing.wait()
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            self._bytes_passed[direction] += len(data)
            await self._loop.sock_sendall(target, self._flipped(data, direction))

    def _flipped(self, data: bytes, direction: Direction) -> bytes:
        until_flip = self._bytes_until_flip.pop(direction, None)
        if until_flip is None:
            return data
        if until_flip >= len(data):
            self._bytes_until_flip[direction] = until_flip - len(data)
            return data
        changed = bytearray(data)
        changed[until_flip] ^= 0xFF
        return bytes(changed)


class _Connection:
    """The two sockets of a forwarded connection, and how they are to be closed."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.by_reset = False
        self._sockets = [client]

    def add_upstream(self) -> socket.socket:
        upstream = socket.socket()
        self._sockets.append(upstream)
        for end in self._sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return upstream

    def close(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                if self.by_reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                else:
                    end.shutdown(socket.SHUT_WR)
                    _drain(end)
            end.close()


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, port))
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _drain(end: socket.socket) -> None:
    """Read what lies there: closing a socket with unread bytes sends RST instead of FIN."""
    end.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while end.recv(BLOCK_BYTES):
            pass


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
