"""The wrapper around every emulator that makes faults happen, on the real connection."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.emulators.emulation import FAULT_STATE, HIT_STATE
from deploy.emulators.faults import JOB_KINDS, Fault, FaultPlan, Kind

#: Under this name the server leaves the connection's transport in the state of a request.
TRANSPORT_STATE: Final = "emulators.transport"
DRIP_PIECES: Final = 40
MALFORMED: Final = b'{"data": {"id": "'
PAGE: Final = b"<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>"

#: Words an error as the provider does: status, message, code.
ErrorOf = Callable[[int, str, str | None], Response]


class FaultLayer:
    """Around one provider's application, or around the files."""

    def __init__(self, app: ASGIApp, plan: FaultPlan, provider: str, error: ErrorOf) -> None:
        self._app = app
        self._plan = plan
        self._provider = provider
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = self._plan.take(self._provider, f"{scope['method']} {scope['path']}")
        if taken is None:
            await self._app(scope, receive, send)
            return
        fault, hit = taken
        state = scope.setdefault("state", {})
        state[HIT_STATE] = hit
        if fault.kind in JOB_KINDS:
            state[FAULT_STATE] = fault
            await self._app(scope, receive, send)
        elif fault.comes_after:
            answer = _Captured()
            await self._app(scope, receive, answer)
            await self._damage(fault, answer, scope, receive, send)
        else:
            # The client sent its request whole, as it would to a proxy that fails behind it.
            await Request(scope, receive).body()
            await self._instead(fault, scope, receive, send)

    async def _damage(self, fault: Fault, answer: "_Captured", scope: Scope, receive: Receive, send: Send) -> None:
        match fault.kind:
            case Kind.TRUNCATE:
                await answer.replay(send, _half)
                await _close(scope, receive)
            case Kind.DRIP:
                await answer.replay(send, lambda body, to: _drip(body, to, fault.seconds))
            case Kind.DELAY:
                await asyncio.sleep(fault.seconds)
                await answer.replay(send, _whole)
            case _:
                await self._instead(fault, scope, receive, send)

    async def _instead(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        match fault.kind:
            case Kind.RESET:
                await _close(scope, receive, reset=True)
                return
            case Kind.CLOSE:
                await _close(scope, receive)
                return
            case Kind.HANG:
                await _wait_for_the_end(receive, fault.seconds)
                await _close(scope, receive)
                return
            case Kind.REDIRECT:
                response = Response(status_code=307, headers={"location": fault.url or ""})
            case Kind.MALFORMED_JSON:
                response = Response(MALFORMED, media_type="application/json")
            case Kind.WRONG_CONTENT_TYPE:
                response = Response(PAGE, media_type="text/html")
            case Kind.EMPTY:
                response = Response(media_type="application/json")
            case _:
                response = self._error(fault.status, "A fault that was asked for.", fault.code)
                if fault.retry_after is not None:
                    response.headers["retry-after"] = fault.retry_after
        await response(scope, receive, send)


class _Captured:
    """An answer that is held back."""

    def __init__(self) -> None:
        self._start: Message = {}
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._body += message.get("body", b"")

    async def replay(self, send: Send, body: "Callable[[bytes, Send], Awaitable[None]]") -> None:
        """With the length of the whole, whatever part of it follows."""
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(self._body)).encode()))
        await send({**self._start, "headers": headers})
        await body(bytes(self._body), send)


async def _whole(body: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": body})


async def _half(body: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


async def _drip(body: bytes, send: Send, seconds: float) -> None:
    step = max(1, -(-len(body) // DRIP_PIECES))
    starts = range(0, len(body), step)
    for at in starts:
        await asyncio.sleep(seconds / len(starts))
        await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
    await send({"type": "http.response.body"})


async def _close(scope: Scope, receive: Receive, *, reset: bool = False) -> None:
    """End the connection; what was sent arrives first, unless it is a reset."""
    transport: asyncio.Transport = scope["state"][TRANSPORT_STATE]
    if reset:
        # No lingering: closing discards what is unsent and sends RST.
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    await _wait_for_the_end(receive, None)


async def _wait_for_the_end(receive: Receive, seconds: float | None) -> None:
    """Until the client is gone, but no longer than that."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(gone(), seconds)
    except TimeoutError:
        return
