"""Limit checks as the client sends them: together where they wait, each with an answer of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import orjson
import pytest

from contracts.client.asking import NotSentError, Question, Reply
from contracts.client.check_batches import (
    CHECKS_PER_REQUEST_MAX,
    OVERLAP_MIN,
    REQUESTS_AT_ONCE,
    SLOW_SECONDS,
    CheckBatches,
)
from contracts.client.checks import Checks
from contracts.client.errors import LedgerRefused, LedgerUnavailable, TokenRefused
from contracts.client.reading import UnusableAnswerError
from contracts.limits import Decision, LimitCheck
from contracts.problems import CONFLICT, STORE_UNAVAILABLE, TOO_LARGE, UNAUTHENTICATED, ProblemType, problem
from tests.builders import check
from tests.servers import eventually


def allowed(operation_id: UUID) -> dict[str, object]:
    return {
        "operation_id": str(operation_id),
        "allowed": True,
        "reservation": None,
        "denial": None,
        "limits": [],
        "decided_at": "2026-11-23T10:00:00Z",
    }


def refused(kind: ProblemType) -> bytes:
    return problem(kind, "for this test").model_dump_json().encode()


class Ledger:
    """Answers what is sent, as the real one does; ``gate`` closed: not yet. Keeps how many checks came together."""

    def __init__(self) -> None:
        self.portions: list[list[UUID]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.problems: dict[UUID, list[ProblemType]] = {}
        self.portion_max = 1000
        self.whole: Reply | None = None

    async def ask(self, question: Question) -> Reply:
        body = orjson.loads(question.body)
        is_batch = question.path.endswith(":batch")
        checks = body["checks"] if is_batch else [body]
        ids = [UUID(one["operation_id"]) for one in checks]
        self.portions.append(ids)
        await self.gate.wait()
        if self.whole is not None:
            return self.whole
        if len(ids) > self.portion_max:
            return Reply(413, refused(TOO_LARGE))
        results = [self._result(one) for one in ids]
        if is_batch:
            return Reply(200, b'{"results":[' + b",".join(results) + b"]}")
        [(name, answer)] = orjson.loads(results[0]).items()
        return Reply(200 if name == "decision" else answer["status"], orjson.dumps(answer))

    def _result(self, operation_id: UUID) -> bytes:
        waiting = self.problems.get(operation_id)
        if waiting:
            return b'{"problem":' + refused(waiting.pop(0)) + b"}"
        return orjson.dumps({"decision": allowed(operation_id)})

    async def is_ready(self) -> bool:
        return True

    async def close(self) -> None: ...


def checks_of(number: int) -> list[LimitCheck]:
    return [LimitCheck.model_validate(check()) for _ in range(number)]


@asynccontextmanager
async def running(ledger: Ledger, timeout_seconds: float = 5.0) -> AsyncIterator[Checks]:
    checks = Checks(ledger, timeout_seconds)
    try:
        yield checks
    finally:
        await checks.close()


async def settled() -> None:
    """Whatever can run has run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_alone_is_sent_at_once_and_as_itself() -> None:
    ledger, [one] = Ledger(), checks_of(1)
    async with running(ledger) as checks:
        assert (await checks.check(one)).operation_id == one.operation_id
    assert ledger.portions == [[one.operation_id]]


async def test_those_that_come_while_one_is_on_its_way_travel_together_each_with_its_own_answer() -> None:
    ledger, sent = Ledger(), checks_of(11)
    ledger.gate.clear()
    conflicting = sent[3].operation_id
    ledger.problems[conflicting] = [CONFLICT]
    async with running(ledger) as checks:
        asked = []
        for one in sent:
            asked.append(asyncio.create_task(checks.check(one)))
            await settled()
        ledger.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [len(portion) for portion in ledger.portions] == [1, 10]
    for one, answer in zip(sent, answers, strict=True):
        if one.operation_id == conflicting:
            assert isinstance(answer, LedgerRefused)
            assert answer.problem.code == CONFLICT.code
        else:
            assert isinstance(answer, Decision)
            assert answer.operation_id == one.operation_id


async def test_for_one_that_hangs_no_other_waits_as_long_as_requests_are_left() -> None:
    ledger, sent = Ledger(), checks_of(REQUESTS_AT_ONCE + 2)
    ledger.gate.clear()
    async with running(ledger) as checks:
        asked = []
        for one in sent[:REQUESTS_AT_ONCE]:
            asked.append(asyncio.create_task(checks.check(one)))
            await eventually(lambda: len(ledger.portions) == len(asked), "its request")
        asked += [asyncio.create_task(checks.check(one)) for one in sent[REQUESTS_AT_ONCE:]]
        await asyncio.sleep(3 * SLOW_SECONDS)
        assert len(ledger.portions) == REQUESTS_AT_ONCE
        ledger.gate.set()
        await asyncio.gather(*asked)
    assert [len(portion) for portion in ledger.portions] == [1] * REQUESTS_AT_ONCE + [2]


async def test_many_wait_for_none_that_is_on_its_way() -> None:
    ledger, sent = Ledger(), checks_of(1 + OVERLAP_MIN)
    ledger.gate.clear()
    async with running(ledger) as checks:
        asked = [asyncio.create_task(checks.check(sent[0]))]
        await settled()
        asked += [asyncio.create_task(checks.check(one)) for one in sent[1:]]
        await settled()
        assert [len(portion) for portion in ledger.portions] == [1, OVERLAP_MIN]
        ledger.gate.set()
        await asyncio.gather(*asked)


async def test_one_that_failed_for_now_is_asked_again_without_the_others() -> None:
    ledger, checks_sent = Ledger(), checks_of(5)
    ledger.problems[checks_sent[2].operation_id] = [STORE_UNAVAILABLE]
    async with running(ledger) as checks:
        made = await asyncio.gather(*map(checks.check, checks_sent))
    assert [decision.operation_id for decision in made] == [one.operation_id for one in checks_sent]
    assert ledger.portions[-1] == [checks_sent[2].operation_id]
    assert sum(map(len, ledger.portions)) == 6


async def test_who_stops_waiting_in_the_queue_is_not_sent() -> None:
    ledger, sent = Ledger(), checks_of(REQUESTS_AT_ONCE + 2)
    ledger.gate.clear()
    async with running(ledger) as checks:
        asked = []
        for one in sent:
            asked.append(asyncio.create_task(checks.check(one)))
            await settled()
        asked[-1].cancel()
        await settled()
        ledger.gate.set()
        await asyncio.gather(*asked, return_exceptions=True)
    assert asked[-1].cancelled()
    assert [one for portion in ledger.portions for one in portion] == [one.operation_id for one in sent[:-1]]


async def test_a_request_that_hangs_keeps_only_the_checks_in_it() -> None:
    ledger, [first, *others] = Ledger(), checks_of(60)
    ledger.gate.clear()
    async with running(ledger, timeout_seconds=0.3) as checks:
        hanging = asyncio.create_task(checks.check(first))
        await settled()
        ledger.gate = asyncio.Event()
        ledger.gate.set()
        made = await asyncio.gather(*map(checks.check, others))
        assert len(made) == len(others)
        with pytest.raises(LedgerUnavailable) as raised:
            await hanging
    assert raised.value.outcome_unknown


async def test_more_than_a_request_takes_are_several() -> None:
    ledger, many = Ledger(), checks_of(3 * CHECKS_PER_REQUEST_MAX)
    async with running(ledger) as checks:
        made = await asyncio.gather(*map(checks.check, many))
    assert [decision.operation_id for decision in made] == [one.operation_id for one in many]
    assert max(map(len, ledger.portions)) <= CHECKS_PER_REQUEST_MAX


async def test_what_is_too_large_together_is_asked_in_halves() -> None:
    ledger, many = Ledger(), checks_of(9)
    ledger.portion_max = 2
    async with running(ledger) as checks:
        made = await asyncio.gather(*map(checks.check, many))
    assert [decision.operation_id for decision in made] == [one.operation_id for one in many]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(401, refused(UNAUTHENTICATED)), TokenRefused),
        (Reply(503, refused(STORE_UNAVAILABLE)), LedgerUnavailable),
        (Reply(200, b'{"results":[]}'), LedgerUnavailable),
        (Reply(200, b"<html>"), LedgerUnavailable),
    ],
)
async def test_what_is_wrong_with_the_whole_request_is_told_to_all_in_it(
    reply: Reply, expected: type[Exception]
) -> None:
    ledger = Ledger()
    ledger.whole = reply
    async with running(ledger) as checks:
        told = await asyncio.gather(*map(checks.check, checks_of(4)), return_exceptions=True)
    assert [type(one) for one in told] == [expected] * 4


async def test_a_decision_on_another_operation_is_no_answer() -> None:
    ledger, [one, other] = Ledger(), checks_of(2)
    ledger.whole = Reply(200, orjson.dumps({"results": [{"decision": allowed(other.operation_id)}] * 2}))
    with pytest.raises(UnusableAnswerError, match="another operation"):
        await CheckBatches(ledger).decide_many([one, other])


async def test_a_queue_that_is_full_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.client.check_batches.WAITING_MAX", 2)
    ledger = Ledger()
    ledger.gate.clear()
    batches = CheckBatches(ledger)
    waiting = []
    for one in checks_of(3):
        waiting.append(asyncio.create_task(batches.decide(one)))
        await settled()
    with pytest.raises(NotSentError, match="2 checks wait"):
        await batches.decide(checks_of(1)[0])
    ledger.gate.set()
    await asyncio.gather(*waiting)
    await batches.close()
