"""Spans: what took how long within a trace, for OpenTelemetry. Without an exporter nothing is made and nothing costs.

The SDK is the extra ``traces``: only a service whose settings name an endpoint needs it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from contracts.tracing import CURRENT, TraceContext, current

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer

#: As OpenTelemetry has them: who was asked, who asks, who sends a message, who takes it.
SERVER: Final = "SERVER"
CLIENT: Final = "CLIENT"
PRODUCER: Final = "PRODUCER"
CONSUMER: Final = "CONSUMER"

Attributes: TypeAlias = Mapping[str, str | int]

#: For one batch of spans, its retries included: a receiver that hangs delays a stop by no more than that.
EXPORT_SECONDS_MAX: Final = 3.0
_PATH: Final = "/v1/traces"

_tracer: "Tracer | None" = None


class SpansUnavailableError(Exception):
    """Traces are to be exported, and what does so is not installed."""


def export_spans(service: str, endpoint: str, ratio: float) -> Callable[[], None]:
    """Sends spans to the OTLP receiver at ``endpoint`` (http/protobuf) from now on, in a thread of its own; a receiver
    that is away loses spans, and delays nothing. ``ratio``: of the traces that begin here, so many are sampled; others
    are as their callers decided. Answers what sends the last ones and ends it, within seconds; it blocks.

    Raises SpansUnavailableError.
    """
    global _tracer
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ModuleNotFoundError as error:
        raise SpansUnavailableError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {error.name} is missing: pip install 'usage-ledger[traces]'"
        ) from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + _PATH, timeout=EXPORT_SECONDS_MAX))
    )
    _tracer = provider.get_tracer("usage-ledger")

    def stop() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()  # sends what it has

    return stop


def enabled() -> bool:
    return _tracer is not None


class Opened:
    """A span that is open, or stands for one where none is exported."""

    def __init__(self, made: "Span | None" = None) -> None:
        self._made = made

    def name(self, name: str) -> None:
        if self._made is not None:
            self._made.update_name(name)

    def say(self, name: str, value: str | int) -> None:
        """One attribute."""
        if self._made is not None:
            self._made.set_attribute(name, value)


_NONE: Final = Opened()


@contextmanager
def span(
    name: str,
    kind: str,
    attributes: Attributes | None = None,
    *,
    parent: TraceContext | None = None,
    links: Sequence[TraceContext] | None = None,
) -> Iterator[Opened]:
    """Around what it measures, which then is within it. Its parent is what runs now, if no other is given; with
    ``links``, which it has to do with all of, it begins a trace of its own."""
    if _tracer is None:
        yield _NONE
        return
    above = None if links is not None else parent or current()
    made = _start(_tracer, name, kind, above, attributes, links or ())
    token = CURRENT.set(_context_of(made))
    try:
        yield Opened(made)
    except BaseException as error:
        _fail(made, error)
        raise
    finally:
        CURRENT.reset(token)
        made.end()


def record(
    name: str, kind: str, parent: TraceContext | None, began_at_ns: int, attributes: Attributes, failed: bool = False
) -> None:
    """A span that is over now, and began then (time.time_ns)."""
    if _tracer is not None:
        made = _start(_tracer, name, kind, parent, attributes, (), began_at_ns)
        if failed:
            _fail(made, None)
        made.end(time.time_ns())


def _start(
    tracer: "Tracer",
    name: str,
    kind: str,
    parent: TraceContext | None,
    attributes: Attributes | None,
    links: Sequence[TraceContext],
    began_at_ns: int | None = None,
) -> "Span":
    from opentelemetry.trace import Link

    return tracer.start_span(
        name,
        _within(parent),
        _kind(kind),
        None if attributes is None else dict(attributes),
        [Link(_span_context(link)) for link in links],
        began_at_ns,
    )


def _within(parent: TraceContext | None) -> "Context":
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    # An empty one, and never what some library has put into OpenTelemetry's own.
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(_span_context(parent)), Context())


def _span_context(trace: TraceContext) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), True, TraceFlags(trace.flags))


def _kind(kind: str) -> "SpanKind":
    from opentelemetry.trace import SpanKind

    return SpanKind[kind]


def _context_of(made: "Span") -> TraceContext:
    context = made.get_span_context()
    return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags))


def _fail(made: "Span", error: BaseException | None) -> None:
    from opentelemetry.trace import Status, StatusCode

    # The type alone: an exception's text may quote the prompt.
    made.set_status(Status(StatusCode.ERROR, None if error is None else type(error).__name__))
