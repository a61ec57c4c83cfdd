"""Adjustments that make the ledger say what the provider billed. Proposed only; somebody reads and applies them.

Their ids follow from what they are about, so that the same reconciliation proposes the same ones, and what was applied
twice counts once. Of what is on one side alone, nothing follows by itself: a line that nobody knows belongs to no
account yet, and what was not billed may be billed later. Both are proposed only where that is asked for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, assert_never
from uuid import UUID

from contracts.adjustments import Adjustment, AdjustmentKind, Reference
from contracts.identifiers import MODEL_PATTERN, hashed_uuid7
from contracts.money import COST_NANOS_MAX
from ledger_service.domain.reconciliation import Charge, How, Item, Line, Status
from ledger_service.domain.reconciliation_shares import proposal_id

_REASON_MAX: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MODEL: Final = re.compile(MODEL_PATTERN)


class Wanted(NamedTuple):
    """``missing_to``: the account that lines which nobody knows are booked to, if any. ``not_billed``: whether what
    they did not bill is taken to cost nothing."""

    provider: str
    file_names: Sequence[str]
    missing_to: str | None = None
    not_billed: bool = False


class TooLarge(NamedTuple):
    """What would settle a finding, and is more than an adjustment may be. ``finding``: the line that says it, or what
    it is about; ``cost``: what it would be."""

    finding: str
    account_id: str
    cost: int


def propose(wanted: Wanted, items: Sequence[Item], ids: Mapping[Line, UUID]) -> Iterator[Adjustment | TooLarge]:
    """``ids``: of the lines that nobody knows, and of those of voided operations (`line_ids`)."""
    for item in items:
        for one in _of_item(wanted, item, ids):
            if one.cost is None or abs(one.cost) <= COST_NANOS_MAX:
                yield one
            else:
                yield TooLarge(_named(wanted, item), one.account_id, one.cost)


def _named(wanted: Wanted, item: Item) -> str:
    if item.lines:
        return ", ".join(_place(wanted, line) for line in item.lines)
    day = (_EPOCH + timedelta(microseconds=item.at)).date()
    return f"{item.model} {day}" if item.charge is None else f"{item.charge.account_id} {item.charge.entry_id}"


def needs_ids(item: Item) -> bool:
    """Whether what is proposed for its lines is named after them."""
    voided = item.charge is not None and item.charge.is_voided and not item.charge.is_adjustment
    return bool(item.lines) and (item.status is Status.MISSING_WITH_US or voided)


def _of_item(wanted: Wanted, item: Item, ids: Mapping[Line, UUID]) -> Iterator[Adjustment]:
    charge = item.charge
    if item.how is How.SUM:
        if item.difference and wanted.missing_to is not None:
            yield _sum(wanted, item, wanted.missing_to)
        return
    match item.status:
        case Status.MATCHED | Status.DUPLICATE:
            return
        case Status.PRICE_DIFFERENCE | Status.IN_DOUBT_FOUND:
            assert charge is not None
            if charge.is_adjustment:
                if not charge.is_voided:
                    yield _changed(wanted, charge, item.difference, _billed(wanted, item))
            elif charge.is_voided:
                yield from (_booked(wanted, line, charge.account_id, ids) for line in item.lines)
            else:
                yield _rated(wanted, charge, item.theirs, _billed(wanted, item))
        case Status.IN_DOUBT_NOT_FOUND:
            assert charge is not None
            yield _taken_back(wanted, charge, f"in doubt, and not among what {wanted.provider} billed")
        case Status.MISSING_WITH_US:
            if wanted.missing_to is not None:
                yield from (_booked(wanted, line, wanted.missing_to, ids) for line in item.lines)
        case Status.MISSING_WITH_THEM:
            assert charge is not None
            if wanted.not_billed:
                yield _taken_back(wanted, charge, f"not billed by {wanted.provider}")
        case _:
            assert_never(item.status)


def _billed(wanted: Wanted, item: Item) -> str:
    return f"{wanted.provider} billed it: {', '.join(_place(wanted, line) for line in item.lines)}"


def _place(wanted: Wanted, line: Line) -> str:
    job = "" if line.job_id is None else f" (job {line.job_id})"
    return f"{wanted.file_names[line.file]} line {line.number}{job}"


def _rated(wanted: Wanted, charge: Charge, cost: int, reason: str) -> Adjustment:
    """What the operation comes to is also what other providers billed for it. Nothing is rated below nothing: where
    more was given back than it cost, free amounts say so."""
    if cost + charge.elsewhere < 0:
        return _changed(wanted, charge, cost - charge.amount, reason)
    kind = AdjustmentKind.RERATE
    return _adjustment(_id(wanted, charge, kind, cost), charge, kind, reason, cost=cost + charge.elsewhere)


def _changed(wanted: Wanted, charge: Charge, difference: int, reason: str) -> Adjustment:
    kind = AdjustmentKind.ADJUSTMENT
    return _adjustment(_id(wanted, charge, kind, difference), charge, kind, reason, cost=difference)


def _taken_back(wanted: Wanted, charge: Charge, reason: str) -> Adjustment:
    if charge.elsewhere:
        return _rated(wanted, charge, 0, reason)
    kind = AdjustmentKind.VOID
    return _adjustment(_id(wanted, charge, kind, 0), charge, kind, reason)


def _id(wanted: Wanted, charge: Charge, kind: AdjustmentKind, cost: int) -> UUID:
    return proposal_id(charge.at, wanted.provider, kind, charge.entry_id, charge.amount, cost, charge.corrections)


def _adjustment(id_: UUID, charge: Charge, kind: AdjustmentKind, reason: str, *, cost: int | None = None) -> Adjustment:
    operation_id, adjustment_id = (None, charge.entry_id) if charge.is_adjustment else (charge.entry_id, None)
    return Adjustment.model_construct(
        adjustment_id=id_, account_id=charge.account_id, kind=kind, reason=reason[:_REASON_MAX],
        reference=Reference.model_construct(operation_id=operation_id, adjustment_id=adjustment_id), cost=cost,
    )  # fmt: skip


def _booked(wanted: Wanted, line: Line, account_id: str, ids: Mapping[Line, UUID]) -> Adjustment:
    reason = f"billed by {wanted.provider}: {_place(wanted, line)}"
    return _free(ids[line], account_id, wanted.provider, line.model, line.amount, line.at, reason)


def _sum(wanted: Wanted, item: Item, account_id: str) -> Adjustment:
    text = repr((wanted.provider, "sum", item.model, item.at, item.theirs, item.ours, item.charge_count))
    reason = f"{wanted.provider} billed {item.line_count} lines of {item.model}, of which this is not here"
    id_ = hashed_uuid7(item.at // 1000, text.encode())
    return _free(id_, account_id, wanted.provider, item.model, item.difference, item.at, reason)


def _free(id_: UUID, account_id: str, provider: str, model: str, cost: int, at: int, reason: str) -> Adjustment:
    # A model's name that is no name here is told in the reason alone.
    return Adjustment.model_construct(
        adjustment_id=id_, account_id=account_id, kind=AdjustmentKind.ADJUSTMENT, reason=reason[:_REASON_MAX],
        provider=provider, model=model if _MODEL.fullmatch(model) else None, cost=cost,
        occurred_at=_EPOCH + timedelta(microseconds=at),
    )  # fmt: skip
