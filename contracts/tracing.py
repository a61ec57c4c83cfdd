"""Which trace something belongs to: W3C Trace Context, from the client's request to the commit of its events.

Carried on from the request that named it, whether spans are exported or not: in logs, in requests to the ledger, and
in events as the extension ``traceparent``, so that it is in the journal and outlives a crash. ``tracestate`` is not.
Sources: https://www.w3.org/TR/trace-context/#traceparent-header and the CloudEvents extension "Distributed Tracing",
https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md
"""

import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from contracts.events import UsageEvent

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

#: The header's name, on HTTP and NATS, and the extension's in events.
TRACEPARENT: Final = "traceparent"

# A later version may have more after the flags, which readers of this one leave alone.
_TRACEPARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<more>-.*)?")
_NOTHING: Final = frozenset("0")


class TraceContext(NamedTuple):
    """``trace_id`` 32, ``span_id`` 16 hexadecimal digits; ``flags`` 1: it is sampled."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(text: str) -> TraceContext | None:
    """None where it is not valid: as if there were none, as the standard says."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (found["more"] and found[1] == "00"):
        return None
    if _NOTHING.issuperset(found[2]) or _NOTHING.issuperset(found[3]):
        return None
    return TraceContext(found[2], found[3], int(found[4], 16) & 1)


#: What runs now belongs to it. Tasks that outlive a request are begun without it.
CURRENT: Final[ContextVar[TraceContext | None]] = ContextVar("trace", default=None)


def current() -> TraceContext | None:
    """What runs now belongs to: as CURRENT says, else OpenTelemetry's own span, where the service has such."""
    own = CURRENT.get()
    if own is not None:
        return own
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return None
    context: SpanContext = opentelemetry.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags) & 1)


def extension_of(trace: TraceContext | None) -> dict[str, str]:
    """As an event of that trace has it."""
    return {} if trace is None else {TRACEPARENT: trace.traceparent}


def trace_of(event: UsageEvent) -> TraceContext | None:
    """The trace that the event belongs to."""
    given = None if event.model_extra is None else event.model_extra.get(TRACEPARENT)
    return parse_traceparent(given) if isinstance(given, str) else None


def trace_in(body: bytes) -> TraceContext | None:
    """The same of an event as JSON; costs nothing to speak of where there is none."""
    if b'"traceparent"' not in body:
        return None
    given = orjson.loads(body).get(TRACEPARENT)
    return parse_traceparent(given) if isinstance(given, str) else None


def add_trace(_: object, __: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # Any: structlog's
    """For structlog: ``trace_id`` and ``span_id`` of what runs now."""
    trace = current()
    if trace is not None:
        event_dict["trace_id"], event_dict["span_id"] = trace.trace_id, trace.span_id
    return event_dict
