"""W3C Trace Context: what is taken, what is as if it were not there, and what is written."""

import asyncio
from typing import Any

import pytest

from contracts import spans
from contracts.client.asking import Question, Reply
from contracts.client.check_batches import CheckBatches
from contracts.events import event_to_json, parse_event
from contracts.limits import LimitCheck
from contracts.tracing import (
    CURRENT,
    TRACEPARENT,
    TraceContext,
    add_trace,
    current,
    parse_traceparent,
    trace_in,
    trace_of,
)
from tests.builders import check, requested, to_bytes
from tests.unit.test_client_check_batches import Ledger

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", 1),
    ],
)
def test_taken(text: str, flags: int) -> None:
    assert parse_traceparent(text) == TraceContext(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
    ],
)
def test_as_if_there_were_none(text: str) -> None:
    assert parse_traceparent(text) is None


def test_written_as_it_was_read() -> None:
    text = f"00-{TRACE}-{SPAN}-01"
    found = parse_traceparent(text)
    assert found is not None
    assert found.traceparent == text


@pytest.mark.parametrize("given", [f"00-{TRACE}-{SPAN}-01", "nonsense", 7, None, {"a": 1}])
def test_an_event_is_read_whatever_its_extension_says(given: Any) -> None:
    event = parse_event(to_bytes({**requested(), TRACEPARENT: given}))
    assert trace_of(event) == trace_in(event_to_json(event))
    assert (trace_of(event) is not None) == (given == f"00-{TRACE}-{SPAN}-01")


def test_metadata_of_that_name_is_no_trace() -> None:
    event = parse_event(to_bytes(requested(metadata={TRACEPARENT: f"00-{TRACE}-{SPAN}-01"})))
    assert trace_of(event) is trace_in(event_to_json(event)) is None


def test_log_lines_name_what_runs_now() -> None:
    assert add_trace(None, "info", {"event": "x"}) == {"event": "x"}
    token = CURRENT.set(TraceContext(TRACE, SPAN, 1))
    try:
        assert add_trace(None, "info", {"event": "x"}) == {"event": "x", "trace_id": TRACE, "span_id": SPAN}
    finally:
        CURRENT.reset(token)


def test_a_service_with_spans_of_opentelemetrys_own_is_in_them() -> None:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

    assert current() is None
    with use_span(NonRecordingSpan(SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1)))):
        assert current() == TraceContext(TRACE, SPAN, 1)
        token = CURRENT.set(TraceContext(TRACE, "1" * 16, 0))
        assert current() == TraceContext(TRACE, "1" * 16, 0)
        CURRENT.reset(token)
    assert current() is None


def test_without_an_exporter_nothing_is_made() -> None:
    assert not spans.enabled()
    with spans.span("one", spans.SERVER) as span:
        span.name("two")
        span.say("three", 3)
        assert current() is None


class Noting(Ledger):
    """Keeps the trace headers of what it is asked, too."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str] | None] = []

    async def ask(self, question: Question) -> Reply:
        self.headers.append(question.trace_headers)
        return await super().ask(question)


async def in_trace(batches: CheckBatches, trace: TraceContext) -> None:
    CURRENT.set(trace)
    await batches.decide(LimitCheck.model_validate(check()))


async def test_a_request_names_a_trace_only_where_it_is_about_one_operation() -> None:
    ledger = Noting()
    batches = CheckBatches(ledger)
    traces = [TraceContext(TRACE, f"{number:016x}", 1) for number in range(1, 11)]
    ledger.gate.clear()
    try:
        running = []
        for one in traces:
            running.append(asyncio.create_task(in_trace(batches, one)))
            for _ in range(5):  # until it is sent, or waits behind those that are
                await asyncio.sleep(0)
        ledger.gate.set()
        await asyncio.gather(*running)
    finally:
        await batches.close()
    assert [len(portion) for portion in ledger.portions] == [1, len(traces) - 1]
    told = [None if headers is None else headers[TRACEPARENT] for headers in ledger.headers]
    assert told == [traces[0].traceparent, None]
