"""A standing pull on a JetStream consumer: messages keep coming while earlier ones are worked on.

nats-py's fetch() asks, waits and answers; between two fetches nothing flows. Here the next request is out before the
buffer is empty. Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference (MSG.NEXT)
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

EXPIRES_SECONDS: Final = 20
#: A request that neither delivered nor ended by then was lost, with the connection for instance.
LOST_AFTER_SECONDS: Final = EXPIRES_SECONDS + 10
_NAK: Final = b"-NAK"
_PENDING_HEADER: Final = "Nats-Pending-Messages"
_TOO_MANY_BYTES: Final = "Message Size Exceeds MaxBytes"
#: Of one request, and of what is buffered before the next: some messages are a thousand times as large as an event.
REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024
#: Of what is taken at once.
TAKEN_BYTES_MAX: Final = 8 * 1024 * 1024
#: A batch begins so long after the one before it, or once so many messages wait. Events that come one by one, some
#: hundred a second, would each have a transaction, an acknowledgement and a confirmation of their own, and take the
#: processors from limit checks. After a pause the first is taken at once.
GATHER_SECONDS: Final = 0.1
GATHERED_MESSAGES: Final = 256
#: What headers and subject may add to a message's payload.
_HEADERS_BYTES: Final = 1024 * 1024


class PullSubscription:
    """Keeps between half of and all of ``buffer_max`` messages buffered or asked for."""

    def __init__(self, connection: Client, stream: str, consumer: str, buffer_max: int) -> None:
        self._connection = connection
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._buffer_max = buffer_max
        self._buffer: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._inbox = connection.new_inbox()
        self._buffered_bytes = 0
        #: Asked for and neither delivered nor declined yet.
        self._owed = 0
        self._asked_at = 0.0
        self._gathers_until = 0.0

    async def start(self) -> None:
        """Subscribes and asks for the first messages."""
        await self._connection.subscribe(
            self._inbox,
            cb=self._on_message,
            pending_msgs_limit=2 * self._buffer_max + 1024,
            pending_bytes_limit=4 * self._request_bytes_max(),
        )
        await self._ask()

    async def take(self, at_most: int) -> list[Msg]:
        """Waits for a first message, and for others with it where the last batch began a moment ago; then answers all
        that are here, up to ``at_most`` and TAKEN_BYTES_MAX."""
        while not self._buffer or (len(self._buffer) < GATHERED_MESSAGES and time.monotonic() < self._gathers_until):
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._gathers_until - time.monotonic() if self._buffer else None):
                    await self._arrived.wait()
        self._gathers_until = time.monotonic() + GATHER_SECONDS
        taken: list[Msg] = []
        size = 0
        while self._buffer and len(taken) < at_most and size < TAKEN_BYTES_MAX:
            taken.append(message := self._buffer.popleft())
            size += len(message.data)
        self._buffered_bytes -= size
        await self._ask()
        return taken

    async def keep_asking(self) -> None:
        """Asks anew when open requests were lost, with their connection or otherwise: runs until cancelled."""
        reconnects = self._connection.stats["reconnects"]
        while True:
            await asyncio.sleep(1)
            if not self._connection.is_connected:
                continue
            lost = time.monotonic() - self._asked_at > LOST_AFTER_SECONDS
            if lost or self._connection.stats["reconnects"] != reconnects:
                reconnects = self._connection.stats["reconnects"]
                self._owed = 0
            await self._ask()

    async def give_back(self) -> None:
        """Hands what is buffered back, so that it is delivered again at once instead of after the ack wait."""
        self._buffer_max = 0
        while self._buffer:
            await self._connection.publish(self._buffer.popleft().reply, _NAK)

    async def _ask(self) -> None:
        room = self._buffer_max - len(self._buffer) - self._owed
        if room <= 0 or room * 2 < self._buffer_max or not self._connection.is_connected:
            return
        if self._buffered_bytes > REQUEST_BYTES_MAX:
            return  # asked for when it was taken
        self._owed += room
        self._asked_at = time.monotonic()
        request = {
            "batch": room,
            "max_bytes": self._request_bytes_max(),
            "expires": EXPIRES_SECONDS * 1_000_000_000,
        }
        await self._connection.publish(self._request_subject, orjson.dumps(request), reply=self._inbox)

    def _request_bytes_max(self) -> int:
        # A message larger than a request may bring would never come, and nothing after it.
        return max(REQUEST_BYTES_MAX, self._connection.max_payload + _HEADERS_BYTES)

    async def _on_message(self, message: Msg) -> None:
        if not message.reply:
            # A status (404, 408, 409, 503): whatever the reason, that much of a request delivers nothing more.
            headers = message.headers or {}
            self._owed = max(0, self._owed - int(headers.get(_PENDING_HEADER, "0")))
            if headers.get("Description") == _TOO_MANY_BYTES:
                await self._ask()
            return
        self._asked_at = time.monotonic()
        self._owed = max(0, self._owed - 1)
        self._buffer.append(message)
        self._buffered_bytes += len(message.data)
        self._arrived.set()
