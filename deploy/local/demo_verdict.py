"""What the demo found, and which of the product's promises that keeps. Pure."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from contracts.limits import Denial, LimitState
from contracts.money import format_nanos, parse_nanos
from deploy.local.demo_client import Answer, Explained, LogRow, Usage

Size = tuple[int, int]
CENTS_DECIMALS = 3


@dataclass(frozen=True)
class SavedPicture:
    """A result on disk: the size that was asked for, and the one that the file has."""

    path: Path
    asked: Size
    size: Size
    size_bytes: int

    @property
    def is_honest(self) -> bool:
        return self.asked == self.size


@dataclass(frozen=True)
class Failure:
    """An operation that the provider did not do, and the limit before it, at its admission and after it."""

    answer: Answer
    decision: Explained
    before: LimitState
    admitted: LimitState
    after: LimitState


@dataclass(frozen=True)
class Evidence:
    """All that the verdict is computed from."""

    limit_id: str
    edits: list[Answer]
    failure: Failure
    before_burst: LimitState
    burst: list[Answer]
    pictures: list[SavedPicture]
    explained: Explained | None  # the decision on one of the denied calls
    provider_calls: list[UUID]  # as the image service logged them
    usage: Usage
    log: list[LogRow]

    @property
    def done(self) -> list[Answer]:
        return [answer for answer in (*self.edits, *self.burst) if answer.done]

    @property
    def denials(self) -> list[Denial]:
        return [answer.denial for answer in self.burst if answer.denial]

    @property
    def admitted(self) -> int:
        return sum(answer.done is not None for answer in self.burst)


@dataclass(frozen=True)
class Promise:
    """One promise, whether it held, and the numbers that say so."""

    name: str
    holds: bool
    numbers: str


def dollars(nanos: int) -> str:
    """An exact amount, with as many decimals as it needs, three at least: ``$0.255``."""
    whole, _, decimals = format_nanos(nanos).partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(CENTS_DECIMALS, '0')}"


def judge(evidence: Evidence) -> list[Promise]:
    return [
        _no_call_past_the_limit(evidence),
        _denied_is_not_called(evidence),
        _none_lost_none_twice(evidence),
        _failure_is_free(evidence),
        _money_agrees(evidence),
        _denials_explained(evidence),
        _sizes_are_honest(evidence),
    ]


def _no_call_past_the_limit(evidence: Evidence) -> Promise:
    before = evidence.before_burst
    maximum, used = int(before.maximum), int(before.settled) + int(before.held)
    admitted, denied, asked = evidence.admitted, len(evidence.denials), len(evidence.burst)
    after = evidence.usage.limit(evidence.limit_id)
    settled = after.settled == maximum and after.held == 0 and after.available == 0
    return Promise(
        "No call past a limit",
        used + admitted == maximum and admitted + denied == asked and settled,
        f"{used} used + {admitted} admitted = {used + admitted} of {maximum} images, {denied} of {asked} denied",
    )


def _denied_is_not_called(evidence: Evidence) -> Promise:
    calls, totals = len(evidence.provider_calls), evidence.usage.totals
    asked = len(evidence.edits) + 1 + len(evidence.burst)
    return Promise(
        "Denied means not called",
        calls == totals.calls + totals.failures and len(set(evidence.provider_calls)) == calls,
        f"{calls} provider calls = {totals.calls} completed + {totals.failures} failed, for {asked} asked",
    )


def _none_lost_none_twice(evidence: Evidence) -> Promise:
    """The same operations, by id: what callers were told, what called a provider, what stands in the usage log."""
    told = {answer.done.operation_id for answer in evidence.done if answer.done}
    told |= {evidence.failure.decision.operation_id}
    logged = Counter(row.operation_id for row in evidence.log)
    lost = len((told | set(evidence.provider_calls)) - set(logged))
    twice = sum(count - 1 for count in logged.values())
    unknown = len(set(logged) - told)
    return Promise(
        "No usage lost or doubled",
        not lost and not twice and not unknown,
        f"{len(told)} operations = {len(evidence.log)} rows in the usage log; {lost} lost, {twice} doubled",
    )


def _failure_is_free(evidence: Evidence) -> Promise:
    failure = evidence.failure
    rows = [row for row in evidence.log if row.operation_id == failure.decision.operation_id]
    cost = sum(row.cost for row in rows)
    recorded = [row.outcome for row in rows] == ["failed"]
    given_back = failure.before == failure.after
    was_held = int(failure.admitted.held) == int(failure.before.held) + 1
    return Promise(
        "A failure gives its hold back",
        failure.decision.state == "released" and given_back and was_held and recorded and cost == 0,
        f"hold {failure.decision.state}; available {failure.before.available}, then {failure.admitted.available}, "
        f"then {failure.after.available}; cost {dollars(cost)}",
    )


def _money_agrees(evidence: Evidence) -> Promise:
    told = sum(answer.done.cost for answer in evidence.done if answer.done)
    rows, total = sum(row.cost for row in evidence.log), evidence.usage.totals.cost
    settled = [parse_nanos(limit.settled) for limit in evidence.usage.limits if limit.meter == "cost"]
    return Promise(
        "Money agrees to the nano",
        told == rows == total and all(amount == total for amount in settled),
        f"answers {dollars(told)} = usage log {dollars(rows)} = usage summary {dollars(total)}",
    )


def _denials_explained(evidence: Evidence) -> Promise:
    explained, naming = evidence.explained, sum(denial.limit_id == evidence.limit_id for denial in evidence.denials)
    told = {answer.problem.operation_id: answer.denial for answer in evidence.burst if answer.problem}
    stands = (
        explained is not None
        and explained.state == "denied"
        and explained.denial is not None
        and explained.denial == told.get(explained.operation_id)
    )
    found = "the ledger says so too" if stands else "the ledger says not"
    return Promise(
        "Every denial explained",
        stands and naming == len(evidence.denials) > 0,
        f"{naming} of {len(evidence.denials)} name the limit {evidence.limit_id}; {found}",
    )


def _sizes_are_honest(evidence: Evidence) -> Promise:
    honest = sum(picture.is_honest for picture in evidence.pictures)
    return Promise(
        "What was asked is what came",
        honest == len(evidence.pictures) == evidence.usage.totals.units,
        f"{honest} of {len(evidence.pictures)} files have the size asked for, {evidence.usage.totals.units} counted",
    )
