"""A lean NATS client for load, in a process of its own: one connection, each caller with one request in flight."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import quantiles
from typing import cast
from urllib.parse import urlsplit

import uvloop

from tests.bench.load import Measured

_INBOX = b"_INBOX.bench."


@dataclass(frozen=True)
class NatsLoad:
    """``requests`` on one subject by ``callers`` at once; ``make_body`` builds the i-th one's body."""

    url: str
    subject: str
    callers: int
    requests: int
    make_body: Callable[[int], bytes]
    #: What every good answer holds.
    expect: bytes = b'"operation_id"'


def run_nats_load(load: NatsLoad) -> Measured:
    """Sends the load and answers rate and latencies. Raises RuntimeError at the first unexpected answer."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_in_process, load).result()


def _in_process(load: NatsLoad) -> Measured:
    return uvloop.run(_send(load))


class _Connection(asyncio.Protocol):
    """Speaks what request-reply needs of the NATS protocol: PUB, MSG, HMSG, PING."""

    def __init__(self, on_answer: Callable[[int, bytes], None]) -> None:
        self._on_answer = on_answer
        self._buffer = b""
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        options = b'{"verbose":false,"headers":true,"protocol":1,"lang":"python","version":"1"}'
        self.transport.write(b"CONNECT " + options + b"\r\nSUB " + _INBOX + b"* 1\r\nPING\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        begin = 0
        while (end := self._buffer.find(b"\r\n", begin)) >= 0:
            line = self._buffer[begin:end]
            if line.startswith((b"MSG", b"HMSG")):
                size = int(line.rsplit(b" ", 1)[1])
                if len(self._buffer) < end + size + 4:
                    break
                number = int(line.split(b" ", 2)[1][len(_INBOX) :])
                self._on_answer(number, self._buffer[end + 2 : end + 2 + size])
                begin = end + size + 4
                continue
            begin = end + 2
            if line.startswith(b"PING"):
                self.transport.write(b"PONG\r\n")
            elif line.startswith(b"PONG") and not self.connected.done():
                self.connected.set_result(None)
            elif line.startswith(b"-ERR"):
                raise RuntimeError(line.decode())
        self._buffer = self._buffer[begin:]


async def _send(load: NatsLoad) -> Measured:
    # Built beforehand, so that building them does not count.
    bodies = [load.make_body(index) for index in range(load.requests)]
    prepared = [
        b"PUB %b %b%d %d\r\n%b\r\n" % (load.subject.encode(), _INBOX, index, len(body), body)
        for index, body in enumerate(bodies)
    ]
    waiting = iter(enumerate(prepared))
    begun, latencies = [0.0] * load.requests, []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send_next() -> None:
        for index, request in waiting:
            begun[index] = time.perf_counter()
            connection.transport.write(request)
            return

    def on_answer(index: int, answer: bytes) -> None:
        latencies.append(time.perf_counter() - begun[index])
        if load.expect not in answer:
            done.set_exception(RuntimeError(answer.decode()))
        elif len(latencies) == load.requests:
            done.set_result(None)
        else:
            send_next()

    target = urlsplit(load.url)
    assert target.hostname is not None
    assert target.port is not None
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(on_answer), target.hostname, target.port
    )
    await connection.connected
    begin = time.perf_counter()
    for _ in range(load.callers):
        send_next()
    await done
    elapsed = time.perf_counter() - begin
    connection.transport.close()
    cuts = quantiles(latencies, n=100)
    return Measured(load.requests / elapsed, cuts[49] * 1000, cuts[98] * 1000)
