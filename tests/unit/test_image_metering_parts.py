"""The pure parts around metering: event shapes, recoveries, log lines, republishing, Accept, admission."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.events import event_to_json, parse_event
from contracts.identifiers import uuid7
from contracts.limits import Decision
from contracts.problems import ProblemError
from image_service.admission import Admission
from image_service.background import stop
from image_service.calls import Call, Caller
from image_service.images import ProducedImage
from image_service.operation_log import Report, limit_moves, readable_block
from image_service.outcomes import Completed, OutcomeStore
from image_service.providers.base import InDoubt, ProviderError, ProviderResult, RecoveredFailure
from image_service.providers.registry import Providers, Selection
from image_service.recording import recovery_of
from image_service.replies import wants_bytes
from image_service.republish import SPANS_MAX, RepublishSchedule, merge_ranges
from image_service.usage_events import (
    failure_of,
    operation_completed,
    operation_failed,
    operation_requested,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SOURCE = "image-service/test"


def call_of(quantity: int = 1, cost_nanos: int = 10_000_000) -> Call:
    return Call(
        operation_id=uuid7(),
        caller=Caller(account_id="acme", user_id="ann", project_id="site"),
        operation="generate",
        selection=Selection("local", "local-render-1", quantity, cost_nanos),
        endpoint="/v1/images/generate",
        request_bytes=99,
        keep=False,
    )


def requested_of(call: Call):
    return operation_requested(call, source=SOURCE, event_id=uuid7(), now=NOW)


def decision(*, is_allowed: bool = True, **limit: object) -> Decision:
    state = {
        "limit_id": "images", "scope": "account", "meter": "calls", "window": "month", "period": "2026-11",
        "maximum": 25, "settled": 10, "held": 3, "available": 12, **limit,
    }  # fmt: skip
    return Decision.model_validate(
        {
            "operation_id": uuid7(),
            "allowed": is_allowed,
            "reservation": None,
            "denial": None,
            "limits": [state],
            "decided_at": NOW,
            "plan_id": "starter",
        }
    )


class TestEvents:
    def test_all_three_are_what_the_contract_reads(self) -> None:
        requested = requested_of(call_of(quantity=2))
        result = ProviderResult((ProducedImage(b"12345", "image/png", 1, 1),), 20_000_000, status_code=200)
        later = NOW + timedelta(seconds=2)
        completed = operation_completed(requested, result, event_id=uuid7(), now=later, duration_ms=2000)
        error = ProviderError("no_credit", "nothing left", cost_nanos=5, status_code=402, retry_count=1)
        failed = operation_failed(requested, error, event_id=uuid7(), now=later, duration_ms=3)
        for event in (requested, completed, failed):
            assert parse_event(event_to_json(event)) == event
        assert (completed.data.cost, completed.data.response_bytes, completed.data.quantity) == (20_000_000, 5, 2)
        assert (completed.data.requested_at, completed.time) == (NOW, later)
        assert (failed.data.cost, failed.data.status_code, failed.data.retry_count) == (5, 402, 1)
        assert b'"cost":"0.000000005"' in event_to_json(failed)

    def test_status_code_that_never_came_is_null(self) -> None:
        failed = operation_failed(
            requested_of(call_of()), ProviderError("x", "y"), event_id=uuid7(), now=NOW, duration_ms=0
        )
        assert parse_event(event_to_json(failed)) == failed

    def test_what_a_provider_says_is_made_to_fit(self) -> None:
        error = ProviderError("bad code\r\n", "a\x00" * 2000)
        failed = operation_failed(requested_of(call_of()), error, event_id=uuid7(), now=NOW, duration_ms=-5)
        assert (failed.data.error.code, failed.data.duration_ms) == ("provider_error", 0)
        assert failed.data.error.message == "a" * 1024

    def test_outcome_is_never_before_its_request(self) -> None:
        requested = requested_of(call_of())
        early = NOW - timedelta(hours=1)
        failed = operation_failed(requested, ProviderError("x", "y"), event_id=uuid7(), now=early, duration_ms=1)
        assert failed.time == requested.time


class TestRecovery:
    def test_known_failure_costs_what_was_billed_and_doubt_costs_the_hold(self) -> None:
        requested = requested_of(call_of(cost_nanos=70))
        known = failure_of(RecoveredFailure("interrupted", "m", cost_nanos=3), requested)
        assert (known.code, known.cost_nanos) == ("interrupted", 3)
        doubt = failure_of(InDoubt("m"), requested)
        assert (doubt.code, doubt.cost_nanos) == ("outcome_unknown", 70)

    async def test_provider_that_is_gone_leaves_doubt(self) -> None:
        assert isinstance(await recovery_of(Providers(()), requested_of(call_of()), None), InDoubt)


class TestLog:
    def report(self, status, made: Decision, cost_nanos: int = 10_000_000, **call) -> Report:
        return Report(call_of(**call), status, made, cost_nanos, 42, None if status == "completed" else "some_code")

    def test_calls_before_and_after(self) -> None:
        [move] = limit_moves(self.report("completed", decision()))
        assert (move.before, move.after, move.maximum) == (12, 13, 25)

    def test_units_move_by_the_quantity(self) -> None:
        [move] = limit_moves(self.report("completed", decision(meter="units"), quantity=3))
        assert (move.before, move.after) == (10, 13)

    def test_failure_gives_the_hold_back_but_for_what_was_billed(self) -> None:
        [calls] = limit_moves(self.report("failed", decision(), 0))
        assert (calls.before, calls.after) == (12, 12)
        made = decision(
            meter="cost", maximum="1.000000000", settled="0.100000000", held="0.010000000", available="0.89"
        )
        [billed] = limit_moves(self.report("failed", made, 4_000_000))
        assert (billed.before, billed.after) == ("0.100000000", "0.104000000")

    def test_denial_has_no_share_of_its_own(self) -> None:
        [move] = limit_moves(self.report("denied", decision(is_allowed=False, settled=25, held=0), 0))
        assert (move.before, move.after) == (25, 25)

    def test_block_shows_what_people_ask_for(self) -> None:
        block = readable_block(self.report("completed", decision()))
        for part in ("acme", "plan starter", "generate", "local-render-1", "12 → 13 / 25", "0.010000000", "completed"):
            assert part in block
        assert "denied: some_code" in readable_block(self.report("denied", decision(is_allowed=False), 0))


class TestRepublish:
    def test_each_time_it_waits_twice_as_long_up_to_a_bound(self) -> None:
        schedule, now, waits = RepublishSchedule(30), 0.0, []
        schedule.published(1, 10, now)
        for attempt in range(1, 9):
            due = schedule.seconds_to_next(now)
            assert due is not None
            assert schedule.pop_due(now + due - 0.1) is None
            now += due
            span = schedule.pop_due(now)
            assert span is not None
            assert (span.first, span.last, span.attempt) == (1, 10, attempt)
            waits.append(due)
            schedule.published(1, 10, now, attempt + 1)
        assert waits == [30, 60, 120, 240, 480, 600, 600, 600]

    def test_memory_is_bounded_and_nothing_is_forgotten(self) -> None:
        schedule = RepublishSchedule(1)
        for number in range(SPANS_MAX * 2 + 10):
            schedule.published(number, number, float(number))
        covered = set()
        while (span := schedule.pop_due(1e9)) is not None:
            covered |= set(range(span.first, span.last + 1))
        assert covered == set(range(SPANS_MAX * 2 + 10))

    @pytest.mark.parametrize(
        ("ranges", "merged"),
        [
            ([], []),
            ([(5, 9), (1, 4)], [(1, 9)]),
            ([(1, 3), (2, 8), (10, 12)], [(1, 8), (10, 12)]),
            ([(1, 10), (2, 3)], [(1, 10)]),
            ([(9, 3)], []),
        ],
    )
    def test_ranges_are_merged(self, ranges, merged) -> None:
        assert merge_ranges(ranges) == merged


@pytest.mark.parametrize(
    ("accept", "image_alone"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("image/*", True),
        ("image/png", True),
        ("application/json, image/png", False),
        ("image/webp;q=0.9, */*;q=0.1", True),
        ("text/html", False),
    ],
)
def test_accept(accept, image_alone) -> None:
    assert wants_bytes(accept) is image_alone


async def test_uploads_wait_for_room_in_turn() -> None:
    admission, order = Admission(operations_max=9, upload_bytes_max=100), []

    async def upload(name: str, size: int, seconds: float) -> None:
        async with admission.upload(size):
            order.append(name)
            await asyncio.sleep(seconds)

    uploads = [("first", 60, 0.05), ("second", 60, 0.05), ("small", 10, 0.0), ("huge", 1_000, 0.0)]
    await asyncio.wait_for(asyncio.gather(*(upload(*one) for one in uploads)), 5)
    assert order == ["first", "second", "small", "huge"]


def test_operations_beyond_the_bound_are_refused_and_places_are_given_back() -> None:
    admission = Admission(operations_max=1, upload_bytes_max=1)
    for _ in range(3):
        with admission.operation(), pytest.raises(ProblemError, match="overloaded"), admission.operation():
            pass


async def test_task_that_loses_a_cancellation_is_stopped_all_the_same() -> None:
    lost = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(stop(task), 5)
    assert task.cancelled()
    assert lost.is_set()


def test_outcomes_are_whole_or_absent(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path / "outcomes")
    images = (ProducedImage(b"\n{}\x00", "image/png", 1, 2), ProducedImage(b"", "image/png", 3, 4))
    outcome = Completed(uuid7(), "local", "m", 5, images, seed=None)
    assert store.load(outcome.operation_id) is None
    store.save(outcome)
    assert store.load(outcome.operation_id) == outcome
    assert [file.suffix for file in (tmp_path / "outcomes").iterdir()] == [".outcome"]
    assert store.sweep(older_than_seconds=60) == 0
    assert store.sweep(older_than_seconds=-1) == 1
    assert store.load(outcome.operation_id) is None
