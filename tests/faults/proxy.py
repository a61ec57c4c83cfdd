"""The network between two processes of the stack, as a TCP proxy whose behaviour changes while it runs.

Proxies live on a thread of their own, for they outlive the event loops of single tests. Their methods may be called
from any thread.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from deploy.local.ports import HOST

CHUNK_BYTES: Final = 64 * 1024
#: Chunks on their way through one direction of a connection; more wait with the sender, as behind a full window.
CHUNKS_MAX: Final = 64
CONNECT_SECONDS: Final = 5.0
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


@dataclass
class Behaviour:
    """Of all connections of a wire, in both directions; the default is a good network."""

    delay_seconds: float = 0.0
    bytes_per_second: float = 0.0  # 0 = no bound
    #: Nothing arrives, and nothing is lost: what was sent meanwhile arrives when it ends.
    stalled: bool = False
    #: Connections are accepted and all that is sent on them is swallowed; so is what is sent on those there were, for
    #: ever, as by a gateway that has forgotten them.
    half_open: bool = False
    #: Connections are reset as soon as they are accepted.
    refusing: bool = False


class _Connection:
    """One connection through a wire: two pumps, until either end closes or the wire is cut."""

    def __init__(self, wire: "Wire", near: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._writers = [near]
        self.forgotten = False

    async def run(self, reader: asyncio.StreamReader) -> None:
        near = self._writers[0]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                far_reader, far = await asyncio.open_connection(HOST, self._wire.target_port)
        except (OSError, TimeoutError):
            self.reset()
            return
        self._writers.append(far)
        pumps = [asyncio.create_task(self._pump(reader, far)), asyncio.create_task(self._pump(far_reader, near))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in self._writers:
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads on while earlier chunks are still under way, so that a delay is not a throttle."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
        delivering = asyncio.create_task(self._deliver(under_way, writer))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if not self.forgotten:
                    await under_way.put((time.monotonic() + self._wire.behaviour.delay_seconds, chunk))
            await under_way.put((0.0, b""))
            await delivering
        except OSError:
            return
        finally:
            delivering.cancel()

    async def _deliver(self, under_way: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, chunk = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while self._wire.behaviour.stalled:  # noqa: ASYNC110 - changed from other threads
                await asyncio.sleep(0.01)
            if self.forgotten:
                continue
            if not chunk:
                return
            with suppress(OSError):
                writer.write(chunk)
                await writer.drain()
            if self._wire.behaviour.bytes_per_second:
                await asyncio.sleep(len(chunk) / self._wire.behaviour.bytes_per_second)

    def reset(self) -> None:
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Wire:
    """Listens on a port of its own and passes on to ``target_port``, as its ``behaviour`` says."""

    def __init__(self, name: str, target_port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.target_port = target_port
        self.behaviour = Behaviour()
        self.port = 0
        self.accepted = 0
        self._loop = loop
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()

    def behave(self, **changes: float | bool) -> None:
        """From now on: these fields of Behaviour, all others as on a good network. ``behave()`` heals."""
        self.behaviour = Behaviour(**changes)  # type: ignore[arg-type]  # its fields are these two types
        if self.behaviour.half_open:
            self._on_its_thread(self._forget)
        if self.behaviour.refusing:
            self.cut()

    def cut(self) -> None:
        """Resets every connection that there is."""
        self._on_its_thread(self._reset)

    def _on_its_thread(self, work: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(work)

    def _forget(self) -> None:
        for connection in self._connections:
            connection.forgotten = True

    def _reset(self) -> None:
        for connection in self._connections:
            connection.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)  # the event loop alone would let it be collected
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, writer)
        connection.forgotten = self.behaviour.half_open
        self.accepted += 1
        self._connections.add(connection)
        try:
            if self.behaviour.refusing:
                connection.reset()
            else:
                await connection.run(reader)
        finally:
            self._connections.discard(connection)


class Network:
    """Wires by name, served until ``close``."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        self.wires: dict[str, Wire] = {}

    def lay(self, name: str, target_port: int) -> Wire:
        """A new wire to a port of this machine, on which nobody needs to listen yet."""
        wire = self.wires[name] = Wire(name, target_port, self._loop)
        asyncio.run_coroutine_threadsafe(wire.listen(), self._loop).result(CONNECT_SECONDS)
        return wire

    def heal(self) -> None:
        for wire in self.wires.values():
            wire.behave()

    def close(self) -> None:
        """Idempotent."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(CONNECT_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        for wire in self.wires.values():
            await wire.close()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
