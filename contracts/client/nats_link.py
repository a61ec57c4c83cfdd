"""One connection to NATS, made again for as long as it takes, and replaced when it no longer works."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Final

import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.access.nats_access import NatsAccess, close_client
from contracts.client.background import stop

CONNECT_SECONDS_MAX: Final = 10.0
RETRY_SECONDS: Final = 1.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Subscription:
    subject: str
    received: Callable[[bytes], Awaitable[None]]


class NatsLink:
    """Holds the client, and one subscription where that is wanted. Any number of tasks may use it."""

    def __init__(self, access: NatsAccess, name: str, subscription: Subscription | None = None) -> None:
        self._access = access
        self._name = name
        self._subscription = subscription
        self._client: Client | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    async def client(self) -> Client:
        """A connected client; waits until there is one."""
        while True:
            if self._client is None or self._client.is_closed:
                await self._connected()
            elif self._client.is_connected:
                return self._client
            else:  # the client reconnects by itself
                await asyncio.sleep(RETRY_SECONDS / 5)

    async def replace(self, client: Client | None = None) -> None:
        """Drop the connection; the next `client` makes a new one. With ``client``: only if it is still that one."""
        if client is None or client is self._client:
            current, self._client = self._client, None
            if current is not None:
                await close_client(current)

    async def close(self) -> None:
        if self._connecting is not None:
            await stop(self._connecting)
        await self.replace()

    async def _connected(self) -> None:
        # One task connects for all who wait; one of them that gives up must not stop it for the others.
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), context=Context())
        await asyncio.wait({self._connecting})
        if not self._connecting.cancelled():
            self._connecting.result()

    async def _connect(self) -> None:
        client = Client()
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await client.connect(name=self._name, error_cb=_on_error, **self._access.options())
                if self._subscription is not None:
                    await client.subscribe(self._subscription.subject, cb=self._on_message)
        except asyncio.CancelledError:
            await close_client(client)
            raise
        except (OSError, TimeoutError, nats.errors.Error) as error:
            _log.warning("nats_unreachable", reason=str(error) or type(error).__name__)
            await close_client(client)
            await asyncio.sleep(RETRY_SECONDS)
            return
        _log.info("nats_connected")
        self._client = client

    async def _on_message(self, message: Msg) -> None:
        assert self._subscription is not None
        await self._subscription.received(message.data)


async def _on_error(error: Exception) -> None:
    # Denied permissions reach a client here and nowhere else.
    _log.warning("nats_error", reason=str(error) or type(error).__name__)
