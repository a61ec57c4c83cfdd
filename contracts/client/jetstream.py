"""One event into the stream."""

import asyncio
from typing import Final

from nats.js.client import JetStreamContext

from contracts.subjects import MSG_ID_HEADER

PUBLISH_SECONDS_MAX: Final = 5.0


async def publish(stream: JetStreamContext, subject: str, event_id: str, body: bytes) -> None:
    """Returns when the broker has acknowledged it; repeating is harmless (Nats-Msg-Id). Raises what nats-py raises."""
    # The timeout around it is for a client that hangs before it begins to wait for the answer (nats.py #671).
    async with asyncio.timeout(PUBLISH_SECONDS_MAX + 1):
        await stream.publish(subject, body, timeout=PUBLISH_SECONDS_MAX, headers={MSG_ID_HEADER: event_id})
