"""The pure parts of the ledger client: event shapes, recoveries, republishing, settings, answers of newer ledgers."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.client import ClientSettings, InDoubt, RecoveredCompletion, RecoveredFailure
from contracts.client.asking import Reply
from contracts.client.background import stop
from contracts.client.reading import UnusableAnswerError, read, read_problem
from contracts.client.repeats import FINISHED_MAX, Repeats
from contracts.client.republish import SPANS_MAX, RepublishSchedule, common_ranges, merge_ranges
from contracts.client.usage_events import (
    Completion,
    Failure,
    operation_completed,
    operation_failed,
    operation_requested,
    outcome_of,
)
from contracts.events import OperationRequested, event_to_json, parse_event
from contracts.identifiers import uuid7
from contracts.limits import Decision, LimitCheck
from contracts.problems import ProblemError
from tests.builders import to_bytes

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def requested_of(quantity: int = 1, cost_nanos: int = 10_000_000) -> OperationRequested:
    check = LimitCheck(
        operation_id=uuid7(),
        account_id="acme",
        user_id="ann",
        project_id="site",
        operation="generate",
        provider="local",
        model="local-render-1",
        quantity=quantity,
    )
    return operation_requested(
        check,
        estimated_cost_nanos=cost_nanos,
        source="tests",
        event_id=uuid7(),
        now=NOW,
        endpoint="/v1/images/generate",
        request_bytes=99,
    )


class TestEvents:
    def test_all_three_are_what_the_contract_reads(self) -> None:
        requested = requested_of(quantity=2)
        later = NOW + timedelta(seconds=2)
        delivered = Completion(20_000_000, status_code=200, response_bytes=5)
        completed = operation_completed(requested, delivered, event_id=uuid7(), now=later, duration_ms=2000)
        billed = Failure("no_credit", "nothing left", cost_nanos=5, status_code=402, retry_count=1)
        failed = operation_failed(requested, billed, event_id=uuid7(), now=later, duration_ms=3)
        for event in (requested, completed, failed):
            assert parse_event(event_to_json(event)) == event
        assert (completed.data.cost, completed.data.response_bytes, completed.data.quantity) == (20_000_000, 5, 2)
        assert (completed.data.requested_at, completed.time) == (NOW, later)
        assert (failed.data.cost, failed.data.status_code, failed.data.retry_count) == (5, 402, 1)
        assert b'"cost":"0.000000005"' in event_to_json(failed)

    def test_what_came_may_be_other_than_what_was_asked(self) -> None:
        delivered = Completion(1, quantity=1, provider="spare")
        completed = operation_completed(requested_of(3), delivered, event_id=uuid7(), now=NOW, duration_ms=0)
        data = completed.data
        assert (data.quantity, data.provider, data.actual_provider) == (1, "local", "spare")

    def test_status_code_that_never_came_is_null(self) -> None:
        failed = operation_failed(requested_of(), Failure("x", "y"), event_id=uuid7(), now=NOW, duration_ms=0)
        assert parse_event(event_to_json(failed)) == failed

    def test_what_a_provider_says_is_made_to_fit(self) -> None:
        said = Failure("bad code\r\n", "a\x00" * 2000)
        failed = operation_failed(requested_of(), said, event_id=uuid7(), now=NOW, duration_ms=-5)
        assert (failed.data.error.code, failed.data.duration_ms) == ("provider_error", 0)
        assert failed.data.error.message == "a" * 1024

    def test_half_a_surrogate_pair_of_a_provider_does_not_make_its_failure_a_doubt(self) -> None:
        said = Failure("x", json.loads(r'"no \ud83d fox"'), 7)
        failed = operation_failed(requested_of(), said, event_id=uuid7(), now=NOW, duration_ms=1)
        assert (failed.data.error.message, failed.data.cost) == ("no ? fox", 7)
        assert parse_event(event_to_json(failed)) == failed

    def test_outcome_is_never_before_its_request(self) -> None:
        requested = requested_of()
        early = NOW - timedelta(hours=1)
        failed = operation_failed(requested, Failure("x", "y"), event_id=uuid7(), now=early, duration_ms=1)
        assert failed.time == requested.time


def test_known_failure_costs_what_was_billed_and_doubt_costs_the_estimate() -> None:
    requested = requested_of(cost_nanos=70)
    known = outcome_of(RecoveredFailure("interrupted", "m", cost_nanos=3), requested)
    doubt = outcome_of(InDoubt("m"), requested)
    assert isinstance(known, Failure)
    assert isinstance(doubt, Failure)
    assert (known.code, known.cost_nanos) == ("interrupted", 3)
    assert (doubt.code, doubt.cost_nanos) == ("outcome_unknown", 70)


def test_a_completion_that_is_found_later_is_one() -> None:
    found = outcome_of(RecoveredCompletion(cost_nanos=5, quantity=2, actual_provider="other"), requested_of())
    assert found == Completion(cost_nanos=5, quantity=2, provider="other")


class TestReading:
    def answer(self, **more: Any) -> bytes:
        state = {
            "limit_id": "images", "scope": "account", "meter": "calls", "window": "month", "period": "2026-11",
            "maximum": 25, "settled": 10, "held": 3, "available": 12, "colour": "red",
        }  # fmt: skip
        return to_bytes(
            {
                "operation_id": str(uuid7()),
                "allowed": True,
                "reservation": {"expires_at": NOW.isoformat(), "shelf": 3},
                "denial": None,
                "limits": [state],
                "decided_at": NOW.isoformat(),
                **more,
            }
        )

    def test_what_a_newer_ledger_adds_is_let_be_at_every_depth(self) -> None:
        decision = read(Decision, self.answer(mood={"deep": [1]}))
        assert decision.allowed
        assert [limit.available for limit in decision.limits] == [12]
        assert not hasattr(decision, "mood")

    def test_what_is_missing_or_wrong_is_not(self) -> None:
        for body in (b"", b"[]", b"<html>", self.answer(allowed="perhaps"), self.answer(limits=None)):
            with pytest.raises(UnusableAnswerError, match="no Decision"):
                read(Decision, body)

    def test_refusals_of_strangers_are_problems_too(self) -> None:
        known = read_problem(
            Reply(409, to_bytes({"type": "t", "title": "T", "status": 409, "code": "c", "detail": "d", "extra": 1}))
        )
        assert (known.code, known.status) == ("c", 409)
        strange = read_problem(Reply(403, b"<html>\xff proxy says no" + b"x" * 9999))
        assert (strange.code, strange.status, len(strange.detail) < 600) == ("unreadable_refusal", 403, True)


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({}, "needs ledger_url"),
            ({"nats_url": "nats://n"}, "check_transport http needs ledger_url"),
            ({"ledger_url": "http://l", "check_transport": "nats"}, "check_transport nats needs nats_url"),
            ({"ledger_url": "ftp://l"}, "ledger_url"),
            ({"ledger_url": "http://l", "source": "a b"}, "source"),
            ({"ledger_url": "http://l", "timeout_seconds": 0}, "timeout_seconds"),
            ({"ledger_url": "http://l", "hold_seconds": 86_401}, "hold_seconds"),
            ({"ledger_url": "http://l", "retries": 3}, "retries"),
        ],
    )
    def test_wrong_ones_are_named(self, wrong: dict[str, Any], says: str) -> None:
        with pytest.raises(ValidationError, match=says):
            ClientSettings.model_validate({"source": "tests", **wrong})


class TestRepeats:
    def test_an_operation_runs_once_and_can_be_tried_again_only_if_it_was_not_started(self) -> None:
        repeats, one = Repeats(), uuid7()
        repeats.start(one)
        with pytest.raises(ProblemError, match="operation_in_progress"):
            repeats.start(one)
        repeats.forget(one)
        repeats.start(one)
        repeats.finish(one)
        with pytest.raises(ProblemError, match="operation_finished"):
            repeats.start(one)

    def test_memory_is_bounded(self) -> None:
        repeats, first = Repeats(), uuid7()
        for operation_id in (first, *(uuid7() for _ in range(FINISHED_MAX))):
            repeats.start(operation_id)
            repeats.finish(operation_id)
        repeats.start(first)


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
        ("some", "others", "common"),
        [
            ([], [(1, 9)], []),
            ([(1, 9)], [], []),
            ([(1, 9)], [(1, 0)], []),
            ([(1, 4), (6, 20)], [(1, 10), (12, 12), (20, 30)], [(1, 4), (6, 10), (12, 12), (20, 20)]),
            ([(3, 3), (5, 5)], [(1, 9)], [(3, 3), (5, 5)]),
            ([(1, 2), (8, 9)], [(3, 7)], []),
        ],
    )
    def test_what_is_in_both_ranges(self, some, others, common) -> None:
        assert common_ranges(some, others) == common


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
