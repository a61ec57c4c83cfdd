"""One event into the stream, in the trace that it belongs to."""

import asyncio
from typing import Final

from nats.js.client import JetStreamContext

from contracts import spans
from contracts.subjects import MSG_ID_HEADER
from contracts.tracing import TRACEPARENT, trace_in

PUBLISH_SECONDS_MAX: Final = 5.0


async def publish(stream: JetStreamContext, subject: str, event_id: str, body: bytes) -> None:
    """Returns when the broker has acknowledged it; repeating is harmless (Nats-Msg-Id). Raises what nats-py raises."""
    trace = trace_in(body)
    if trace is None:
        await _publish(stream, subject, body, {MSG_ID_HEADER: event_id})
        return
    about = {"messaging.system": "nats", "messaging.destination.name": subject, "messaging.message.id": event_id}
    with spans.span(f"publish {subject}", spans.PRODUCER, about, parent=trace):
        await _publish(stream, subject, body, {MSG_ID_HEADER: event_id, TRACEPARENT: trace.traceparent})


async def _publish(stream: JetStreamContext, subject: str, body: bytes, headers: dict[str, str]) -> None:
    # The timeout around it is for a client that hangs before it begins to wait for the answer (nats.py #671).
    async with asyncio.timeout(PUBLISH_SECONDS_MAX + 1):
        await stream.publish(subject, body, timeout=PUBLISH_SECONDS_MAX, headers=headers)
