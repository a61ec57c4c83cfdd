"""A lean HTTP/1.1 client for load, in a process of its own, so that the client costs as little as can be."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import quantiles
from urllib.parse import urlsplit

import uvloop

from tests.tokens import TOKEN


@dataclass(frozen=True)
class Load:
    """``requests`` over ``callers`` keep-alive connections; ``make_request`` builds the i-th one's path and body."""

    url: str
    method: str
    callers: int
    requests: int
    make_request: Callable[[int], tuple[str, bytes]]
    expect: bytes = b"HTTP/1.1 200"
    #: Further request headers, each with its line end.
    headers: str = ""
    #: Evenly spread, so many a second; else each caller sends its next request once it has its answer. Latencies then
    #: count from the time at which a request was due.
    per_second: float | None = None


@dataclass(frozen=True)
class Measured:
    per_second: float
    p50_ms: float
    p99_ms: float


def run_load(load: Load) -> Measured:
    """Sends the load and answers rate and latencies. Raises RuntimeError at the first unexpected answer."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_in_process, load).result()


def _in_process(load: Load) -> Measured:
    return uvloop.run(_send(load))


async def _send(load: Load) -> Measured:
    target = urlsplit(load.url)
    # Built beforehand, so that building them does not count.
    prepared = [_encode(load, target.netloc, index) for index in range(load.requests)]
    latencies: list[float] = []
    remaining = iter(enumerate(prepared))
    connections = [
        await asyncio.open_connection(target.hostname, target.port, limit=1 << 20) for _ in range(load.callers)
    ]

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for index, request in remaining:
            due = time.perf_counter()
            if load.per_second is not None:
                due = begin + index / load.per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_content_length(head))
            latencies.append(time.perf_counter() - due)
            if not head.startswith(load.expect):
                raise RuntimeError(f"{head.decode()}{body.decode()}")
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(call(reader, writer) for reader, writer in connections))
    elapsed = time.perf_counter() - begin
    cuts = quantiles(latencies, n=100)
    return Measured(load.requests / elapsed, cuts[49] * 1000, cuts[98] * 1000)


def _encode(load: Load, host: str, index: int) -> bytes:
    path, body = load.make_request(index)
    head = f"{load.method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n{load.headers}"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _content_length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + 15
    return int(head[start : head.index(b"\r\n", start)])
