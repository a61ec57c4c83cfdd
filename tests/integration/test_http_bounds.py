"""Endless, slow and idle clients: each is told what it did, none costs the others anything."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from contracts.http_bounds import Bounds, at_shutdown, bounded_protocol
from tests import builders
from tests.builders import completed
from tests.integration.image_harness import (
    answers,
    eventually,
    free_port,
    make_settings,
    serving,
    start_process,
)
from tests.servers import LedgerProcess
from tests.tokens import AUTHORIZED

SLOW_SECONDS = 0.8
CONNECTIONS, PER_ADDRESS = 40, 30
MEBIBYTE = 1024 * 1024


@dataclass
class Service:
    url: str
    pid: int
    #: A route that reads a JSON body.
    path: str
    body_bytes_max: int

    @property
    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def connect(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = urlsplit(self.url)
        return await asyncio.open_connection(place.hostname, place.port, local_addr=(address, 0))

    async def still_answers(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as http:
            begin = time.monotonic()
            assert (await http.get("/livez")).status_code == 200
            assert time.monotonic() - begin < 2


@pytest.fixture
async def services(
    ledger_process: Callable[..., LedgerProcess], tmp_path: Path
) -> AsyncIterator[tuple[Service, Service]]:
    """The ledger, and an image service without one."""
    port = free_port()
    # Without a ledger nobody can say whose a token is.
    environment = {
        "IMAGE_AUTH": "off",
        "IMAGE_CONNECTIONS_MAX": str(CONNECTIONS),
        "IMAGE_CONNECTIONS_PER_ADDRESS_MAX": str(PER_ADDRESS),
        "IMAGE_SLOW_CLIENT_SECONDS": str(SLOW_SECONDS),
    }
    image = start_process(make_settings(tmp_path, "http://127.0.0.1:1", port=port), **environment)
    try:
        ledger = await asyncio.to_thread(
            lambda: ledger_process(
                connections_max=CONNECTIONS,
                connections_per_address_max=PER_ADDRESS,
                slow_client_seconds=SLOW_SECONDS,
            )
        )
        assert ledger.pid is not None
        await eventually(lambda: answers(port))
        yield (
            Service(ledger.url, ledger.pid, "/v1/plans/gold", MEBIBYTE),
            Service(f"http://127.0.0.1:{port}", image.pid, "/v1/images/generate", 64 * 1024),
        )
    finally:
        image.terminate()
        await asyncio.to_thread(image.communicate)


async def told(reader: asyncio.StreamReader, within_seconds: float = 10) -> tuple[int, str]:
    """Status and code of the answer; (0, "") where the connection ends without one. Whoever still writes after it may
    find the connection reset behind what was answered."""
    answer = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(within_seconds):
            while part := await reader.read(65_536):
                answer += part
    if not answer:
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    return int(head.split()[1]), json.loads(body)["code"]


def head_of(service: Service, *headers: str, method: str | None = None) -> bytes:
    method = method or ("PUT" if "plans" in service.path else "POST")
    token = f"Authorization: {AUTHORIZED['Authorization']}"
    caller = (token, "X-Account-Id: acme", "X-User-Id: ada", "Content-Type: application/json", "Host: x")
    return "\r\n".join((f"{method} {service.path} HTTP/1.1", *caller, *headers)).encode()


async def test_every_bound_holds_and_is_told(services: tuple[Service, Service]) -> None:
    """One start for all of them: what each is about stands in its name."""
    await asyncio.gather(*map(_every_bound, services))


async def _every_bound(service: Service) -> None:
    before = service.memory_mib
    await asyncio.gather(
        _headers_without_end(service),
        _one_header_without_end(service),
        _a_hundred_thousand_parameters(service),
        _headers_drop_by_drop(service),
        _a_body_drop_by_drop(service),
        _a_body_that_never_comes(service),
        _nothing_at_all(service),
        _no_http(service),
        _a_gigabyte_announced(service),
        _chunks_without_end(service),
        _deep_json(service),
    )
    await _an_answer_before_the_body_keeps_the_connection(service)
    await _more_connections_than_there_may_be(service)
    await service.still_answers()
    assert service.memory_mib < before + 60


async def _headers_without_end(service: Service) -> None:
    reader, writer = await service.connect()
    writer.write(head_of(service) + b"".join(b"\r\nX-%d: %s" % (number, b"a" * 100) for number in range(1_000)))
    assert await told(reader) == (431, "headers_too_large")
    writer.close()


async def _one_header_without_end(service: Service) -> None:
    reader, writer = await service.connect()
    writer.write(head_of(service) + b"\r\nX-Long: ")
    try:
        for _ in range(2_000):
            writer.write(b"a" * 50_000)
            await writer.drain()
    except ConnectionError:
        pass
    assert await told(reader) in ((431, "headers_too_large"), (0, ""))
    writer.close()


async def _a_hundred_thousand_parameters(service: Service) -> None:
    reader, writer = await service.connect()
    query = "&".join(f"p{number}={number}" for number in range(100_000))
    writer.write(f"GET /livez?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert await told(reader) == (431, "headers_too_large")
    writer.close()


async def _headers_drop_by_drop(service: Service) -> None:
    reader, writer = await service.connect()
    answer = asyncio.create_task(told(reader))
    begin = time.monotonic()
    writer.write(head_of(service))
    while not answer.done() and time.monotonic() - begin < 8:
        writer.write(b"\r\nX: y")
        await asyncio.sleep(0.1)
    assert await answer == (408, "request_timeout")
    assert time.monotonic() - begin < 6 * SLOW_SECONDS
    writer.close()


async def _a_body_drop_by_drop(service: Service) -> None:
    for framing in ("Content-Length: 60000", "Transfer-Encoding: chunked"):
        reader, writer = await service.connect()
        answer = asyncio.create_task(told(reader))
        begin = time.monotonic()
        writer.write(head_of(service, framing) + b"\r\n\r\n")
        while not answer.done() and time.monotonic() - begin < 8:
            writer.write(b"{" if "Length" in framing else b"1\r\n \r\n")
            await asyncio.sleep(0.1)
        assert await answer == (408, "request_timeout"), framing
        writer.close()


async def _a_body_that_never_comes(service: Service) -> None:
    reader, writer = await service.connect()
    writer.write(head_of(service, "Content-Length: 100") + b"\r\n\r\n")
    assert await told(reader) == (408, "request_timeout")
    writer.close()


async def _nothing_at_all(service: Service) -> None:
    reader, writer = await service.connect()
    assert await told(reader) == (0, "")
    writer.close()


async def _no_http(service: Service) -> None:
    reader, writer = await service.connect()
    writer.write(b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n")
    assert await told(reader) == (400, "malformed_request")
    writer.close()


async def _a_gigabyte_announced(service: Service) -> None:
    reader, writer = await service.connect()
    writer.write(head_of(service, f"Content-Length: {1024 * MEBIBYTE}") + b"\r\n\r\n")
    begin = time.monotonic()
    first = await asyncio.wait_for(reader.readline(), 5)
    assert first.split()[1] == b"413"
    assert time.monotonic() - begin < SLOW_SECONDS, "it is refused before a byte of it came"
    writer.close()


async def _chunks_without_end(service: Service) -> None:
    reader, writer = await service.connect()
    writer.write(head_of(service, "Transfer-Encoding: chunked") + b"\r\n\r\n")
    sent = 0
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    try:
        while sent < 200 * MEBIBYTE:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
    except ConnectionError:
        pass
    assert sent < 100 * MEBIBYTE, "it read on and on"
    with suppress(ConnectionError):  # who sends on and never reads may not see the answer
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.split()[1:2] in ([b"413"], [])
    writer.close()


async def _deep_json(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as http:
        deep = b'{"a":' * 8_000 + b"1" + b"}" * 8_000
        headers = {"Content-Type": "application/json", "X-Account-Id": "acme", "X-User-Id": "ada", **AUTHORIZED}
        method = "PUT" if "plans" in service.path else "POST"
        answer = await http.request(method, service.path, content=deep[: service.body_bytes_max], headers=headers)
        assert answer.status_code in (400, 422)


async def _an_answer_before_the_body_keeps_the_connection(service: Service) -> None:
    """A client that sends headers first, as many do, is answered 404, and goes on with the same connection."""
    reader, writer = await service.connect()
    for _ in range(2):
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"404"
        length = 0
        while (line := await reader.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length"):
                length = int(line.split()[1])
        await reader.readexactly(length)
        writer.write(b"hello")
        await writer.drain()
    writer.close()


async def _more_connections_than_there_may_be(service: Service) -> None:
    opened = [await service.connect() for _ in range(PER_ADDRESS)]
    reader, writer = await service.connect()
    assert await told(reader) == (503, "overloaded"), "one address does not get all"
    writer.close()
    opened += [await service.connect("127.0.0.2") for _ in range(CONNECTIONS - PER_ADDRESS)]
    reader, writer = await service.connect("127.0.0.3")
    assert await told(reader) == (503, "overloaded")
    writer.close()
    # The idle ones are given up, and their places are free again.
    assert [await told(reader) for reader, _ in opened] == [(0, "")] * CONNECTIONS
    for _, writer in opened:
        writer.close()
    again = [await service.connect() for _ in range(PER_ADDRESS)]
    again[-1][1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(again[-1][0].readline(), 5)).split()[1] == b"200"
    for _, writer in again:
        writer.close()


async def test_what_is_large_and_allowed_still_goes_through(ledger_process: Callable[..., LedgerProcess]) -> None:
    process = await asyncio.to_thread(ledger_process)
    events = [completed(metadata={"text": "x" * 4_000}) for _ in range(1_000)]
    async with process.client() as client:
        assert (await client.send(*events))["accepted"] == 1_000
        headers = {"Content-Type": "application/json"}

        async def slowly() -> AsyncIterator[bytes]:
            body = builders.to_bytes(builders.plan(builders.limit()))
            for start in range(0, len(body), 40):
                yield body[start : start + 40]
                await asyncio.sleep(0.01)

        assert (await client.http.put("/v1/plans/slow", content=slowly(), headers=headers)).status_code == 200
        many = {"model": [f"model-{number}" for number in range(1_000)]}
        await client.set_up()
        answer = await client.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage-log", params=many)
        assert answer.status_code == 200


async def test_a_stream_that_begins_as_the_server_stops_ends_at_once() -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        reached.set()
        await go.wait()
        ended = asyncio.Event()
        at_shutdown(scope, ended.set)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await ended.wait()
        await send({"type": "http.response.body", "body": b"over"})

    async with httpx.AsyncClient(timeout=30) as http:
        options = {"http": bounded_protocol(Bounds()), "timeout_graceful_shutdown": 30, "lifespan": "off"}
        async with serving(app, **options) as url:
            asking = asyncio.create_task(http.get(url))
            await reached.wait()
            asyncio.get_running_loop().call_later(0.5, go.set)  # the server has begun to stop by then
            begin = time.monotonic()
        assert (await asking).text == "over"
    assert time.monotonic() - begin < 10


async def _bare(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_line_breaks_between_requests_keep_no_connection_for_ever() -> None:
    bounds = Bounds(head_seconds_max=SLOW_SECONDS)
    async with serving(_bare, http=bounded_protocol(bounds), lifespan="off", timeout_keep_alive=2) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        for number in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 5)).startswith(b"HTTP/1.1 200"), number
            writer.write(b"\r\n")
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(reader.read(), 6) == b""
        writer.close()


async def test_a_stream_with_a_request_behind_it_ends_when_its_client_goes() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/stream":
            await _bare(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.create_task(_gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
            await asyncio.wait([gone], timeout=0.1)
        ended.set()

    async with serving(app, http=bounded_protocol(Bounds()), lifespan="off") as url:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)


async def _slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it got, after a while; of a stream something now and then."""
    body = b""
    while (message := await receive()).get("more_body", False) or message.get("body"):
        body += message["body"]
        if not message["more_body"]:
            break
    parts = 20 if scope["path"] == "/stream" else 1
    if parts == 1:
        await asyncio.sleep(SLOW_SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (9 * parts))]})
    for _ in range(parts):
        await send({"type": "http.response.body", "body": b"got %5d" % len(body), "more_body": True})
        if parts > 1:
            await asyncio.wait([asyncio.ensure_future(receive())], timeout=SLOW_SECONDS / 4)
    await send({"type": "http.response.body", "body": b""})


GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s"


async def _answered(*written: bytes) -> bytes:
    """Everything that comes until the server, whose bounds are short, ends the connection."""
    bounds = Bounds(head_seconds_max=SLOW_SECONDS / 2, body_seconds=SLOW_SECONDS / 2, linger_seconds=0.1)
    async with serving(_slow, http=bounded_protocol(bounds), lifespan="off", timeout_keep_alive=1) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        for part in written:
            writer.write(part)
            await asyncio.sleep(SLOW_SECONDS * 1.5 if part is not written[-1] else 0)
        try:
            return await asyncio.wait_for(reader.read(), 10 * SLOW_SECONDS)
        finally:
            writer.close()


@pytest.mark.parametrize("behind", [POST % (5, b"", b"he"), b"GET / HTTP/1.1\r\nHost", b"no HTTP\r\n\r\n"])
async def test_what_is_refused_behind_a_request_is_no_answer_to_that_one(behind: bytes) -> None:
    for first in (GET % b"", GET % b"stream", POST % (5, b"", b"hello")):
        said = await _answered(first + behind)
        assert said.startswith(b"HTTP/1.1 200 "), said
        assert said.count(b"HTTP/1.1") == 1, said


async def test_a_body_is_none_of_the_head_behind_it() -> None:
    large = 60_000
    said = await _answered(POST % (large, b"", b"x" * large) + b"GET / HTTP/1.1\r\nX: " + b"y" * 5_000)
    assert said.count(b"HTTP/1.1") == 1
    assert said.endswith(b"got %5d" % large)


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
async def test_who_offers_another_protocol_is_answered_as_everybody(
    name: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As Java's client does with each request over http."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\n%s: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n" % name
    said = await _answered(POST % (5, offer, b"hello"), POST % (7, offer, b"hello 2"))
    assert said.count(b"HTTP/1.1 200 ") == 2, said
    assert b"got     5" in said
    assert said.endswith(b"got     7")
    assert caplog.records == []


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
