"""A receiver of webhooks that answers as it is told to: a real HTTP server on this machine."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

HANG: Final = "hang"
RESET: Final = "reset"
ENDLESS: Final = "endless"

#: Of a ledger that tells receivers on this machine, as soon as there is something to tell.
QUICK_WEBHOOKS: Final[Mapping[str, Any]] = {
    "webhook_interval_seconds": 0.05,
    "webhook_insecure_hosts": ["127.0.0.1"],
}


@dataclass
class Request:
    """A delivery as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    answered: object = None

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def payload(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.payload["data"]


@dataclass
class Receiver:
    """``script``: what it does next, then ``otherwise``: a status, (status, headers), or HANG, RESET, ENDLESS (200,
    with a body that never ends). By account in ``of_account``, where that has it."""

    port: int = 0
    otherwise: Any = 200
    script: deque[Any] = field(default_factory=deque)
    of_account: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    open_now: int = 0
    open_max: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/hook") -> str:
        return f"http://{self.host}{path}"

    @property
    def taken(self) -> list[Request]:
        """What it answered with 200."""
        return [one for one in self.requests if one.answered == 200]

    def ids(self) -> list[str]:
        return [one.message_id for one in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.open_max = max(self.open_max, self.open_now)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self.open_now -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(head[0].split(" ")[1], headers, body, time.monotonic())
        account = json.loads(body)["data"].get("account_id") if body else None
        if account in self.of_account:
            act = self.of_account[account]
        else:
            act = self.script.popleft() if self.script else self.otherwise
        request.answered = act
        self.requests.append(request)
        if act == HANG:
            await reader.read()  # until the other side gives up
            return
        if act == RESET:
            writer.transport.abort()
            return
        if act == ENDLESS:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"more " * 1000)
                await writer.drain()
                await asyncio.sleep(0.01)
            return
        status, more = act if isinstance(act, tuple) else (act, {})
        text = f"answer {status}".encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in more.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + text)
        await writer.drain()


@asynccontextmanager
async def receiving(**fields: Any) -> AsyncIterator[Receiver]:
    """``async with receiving(otherwise=500) as receiver``."""
    receiver = Receiver(**fields)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
