"""One trace per operation, from the client's request over both services and NATS to the commit of its events."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client as NatsClient

from contracts import spans
from contracts.client.background import Background
from contracts.client.journal import Journal
from contracts.client.recording import JournalRecorder, recover_left, unknown
from contracts.events import OperationRequested, parse_event
from contracts.spans import EXPORT_SECONDS_MAX, export_spans
from contracts.subjects import LIMITS_CHECK
from contracts.tracing import TRACEPARENT, TraceContext, trace_of
from tests.builders import check, completed, limit, requested, to_bytes
from tests.integration.image_harness import (
    CALLER,
    GENERATE,
    answers,
    free_port,
    image_service,
    make_settings,
    start_process,
)
from tests.otlp import Received, Receiver, receiving
from tests.servers import TLS, WAIT_SECONDS, Ledger, LedgerProcess, eventually

ASKED = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
IMAGE, LEDGER = "image-service", "ledger"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@asynccontextmanager
async def image_process(
    tmp_path: Path, ledger_url: str, nats_url: str, said: list[dict[str, object]], **environment: str
) -> AsyncIterator[httpx.AsyncClient]:
    """The image service as a process; what it logged is in ``said`` once it has ended."""
    settings = make_settings(tmp_path, ledger_url, nats_url=nats_url, port=free_port())
    process = start_process(settings, **environment)
    try:
        await eventually(lambda: answers(settings.port), "the image service listens")
        url = f"http://127.0.0.1:{settings.port}"
        async with httpx.AsyncClient(base_url=url, headers=CALLER, timeout=30, trust_env=False, verify=TLS) as client:
            yield client
    finally:
        process.terminate()
        _, log = await asyncio.to_thread(process.communicate, timeout=30)
        said += [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]


def below(spans: list[Received], parent: Received) -> set[tuple[str, str]]:
    return {(span.service, span.name) for span in spans if span.parent_id == parent.span_id}


async def test_all_spans_of_an_operation_over_both_processes_have_its_clients_trace(
    receiver: Receiver,
    ledger_process: Callable[..., LedgerProcess],
    nats_url: str,
    nats_client: NatsClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **SOON}
    for name, value in exporting.items():
        monkeypatch.setenv(name, value)
    ledger = ledger_process()
    async with ledger.client() as client:
        await client.set_up(limit("images", maximum=5))
    said: list[dict[str, object]] = []
    async with image_process(tmp_path, ledger.url, nats_url, said, **exporting) as images:
        done = await images.post("/v1/images/generate", json=GENERATE, headers={TRACEPARENT: ASKED.traceparent})
        assert done.status_code == 200, done.text
        operation_id = done.json()["operation_id"]
        await eventually(
            lambda: sum(span.name == "commit" for span in receiver.of(ASKED.trace_id)) == 2,
            "both events are committed, and their spans are here",
        )
    told = receiver.of(ASKED.trace_id)
    assert sorted((span.service, span.name) for span in told) == [
        (IMAGE, "POST /v1/images/generate"),
        (IMAGE, "generate by local"),
        (IMAGE, "limit check"),
        (IMAGE, "publish usage.v1.operation.completed"),
        (IMAGE, "publish usage.v1.operation.requested"),
        (LEDGER, "POST /v1/limit-checks"),
        (LEDGER, "commit"),
        (LEDGER, "commit"),
    ]
    by_name = {span.name: span for span in told}
    served = by_name["POST /v1/images/generate"]
    assert served.parent_id == ASKED.span_id, "the client's own span is above it"
    assert (served.attributes["http.route"], served.attributes["http.response.status_code"]) == (
        "/v1/images/generate",
        200,
    )
    assert below(told, by_name["limit check"]) == {(LEDGER, "POST /v1/limit-checks")}
    assert below(told, served) == {
        (service, name)
        for service, name in ((span.service, span.name) for span in told)
        if name not in ("POST /v1/images/generate", "POST /v1/limit-checks")
    }
    commits = [span for span in told if span.name == "commit"]
    assert {span.attributes["ledger.operation_id"] for span in commits} == {operation_id}
    assert {span.attributes["ledger.outcome"] for span in commits} == {"accepted"}
    assert not any(span.failed for span in told)
    for sequence in (1, 2):
        message = await nats_client.jetstream().get_msg("USAGE", sequence)
        assert message.data is not None
        event = trace_of(parse_event(message.data))
        assert event is not None
        assert (message.headers or {})[TRACEPARENT] == event.traceparent
        assert (event.trace_id, event.span_id) == (ASKED.trace_id, served.span_id)
    [line] = [line for line in said if line["event"] == "operation"]
    assert (line["trace_id"], line["span_id"]) == (ASKED.trace_id, served.span_id)


async def test_without_an_exporter_the_clients_trace_is_carried_on_all_the_same(
    ledger: Ledger, nats_url: str, nats_client: NatsClient, tmp_path: Path
) -> None:
    await ledger.set_up(limit("images", maximum=5))
    async with image_service(make_settings(tmp_path, ledger.url, nats_url=nats_url)) as images:
        traced = await images.post("/v1/images/generate", json=GENERATE, headers={TRACEPARENT: ASKED.traceparent})
        untraced = await images.post("/v1/images/generate", json=GENERATE)
        assert (traced.status_code, untraced.status_code) == (200, 200)

        async def both() -> bool:
            return bool((await ledger.usage())["totals"]["calls"] == 2)

        await eventually(both, "both are recorded")
    traces: dict[str, list[str | None]] = {}
    for sequence in range(1, 5):
        message = await nats_client.jetstream().get_msg("USAGE", sequence)
        assert message.data is not None
        event = parse_event(message.data)
        traces.setdefault(str(event.data.operation_id), []).append((message.headers or {}).get(TRACEPARENT))
    assert traces == {
        traced.json()["operation_id"]: [ASKED.traceparent] * 2,
        untraced.json()["operation_id"]: [None] * 2,
    }


async def test_a_check_over_nats_is_in_its_callers_trace(
    ledger: Ledger, nats_client: NatsClient, receiver: Receiver
) -> None:
    await ledger.set_up(limit("images", maximum=5))
    stop = export_spans(LEDGER, receiver.url, 1.0)
    try:
        headers = {TRACEPARENT: ASKED.traceparent}
        await nats_client.request(LIMITS_CHECK, to_bytes(check()), headers=headers, timeout=WAIT_SECONDS)
        event = {**completed(), TRACEPARENT: ASKED.traceparent}
        await ledger.send(event)
        await ledger.send(event, {**requested(), TRACEPARENT: "not one"})
    finally:
        await asyncio.to_thread(stop)
    told = receiver.of(ASKED.trace_id)
    assert [(span.name, span.parent_id) for span in told] == [
        (LIMITS_CHECK, ASKED.span_id),
        ("commit", ASKED.span_id),
        ("commit", ASKED.span_id),
    ]
    assert [span.attributes.get("ledger.outcome") for span in told] == [None, "accepted", "duplicate"]
    assert {span.name for span in receiver.spans if span.trace_id != ASKED.trace_id} == {"POST /v1/events"}


async def test_the_trace_of_an_operation_outlives_the_process_that_began_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", 2**30)
    begun = parse_event(to_bytes({**requested(source=journal.source), TRACEPARENT: ASKED.traceparent}))
    assert isinstance(begun, OperationRequested)
    await journal.begin(begun)
    journal.close()
    journal = Journal(tmp_path / "journal.db", 2**30)
    background = Background()
    await recover_left(await journal.unfinished(), unknown, JournalRecorder(journal, background, None))
    rows = await journal.outbox(1, 10, 10)
    journal.close()
    assert [json.loads(row.body)[TRACEPARENT] for row in rows] == [ASKED.traceparent] * 2
    assert [row.subject.rpartition(".")[2] for row in rows] == ["requested", "failed"]


def test_a_receiver_that_hangs_keeps_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stop = export_spans(LEDGER, f"http://127.0.0.1:{silent.getsockname()[1]}", 1.0)
        began = time.monotonic()
        with spans.span("one", spans.SERVER):
            pass
        assert time.monotonic() - began < EXPORT_SECONDS_MAX
        stop()
        assert time.monotonic() - began < EXPORT_SECONDS_MAX + 2
