"""Adjustments: decided under the account's lock, then recorded the way that outcomes are."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Final, NamedTuple, TypeVar, assert_never
from uuid import UUID

import orjson

from contracts.adjustments import (
    NO_KIND,
    Adjustment,
    AdjustmentKind,
    AdjustmentStored,
    AppliedPrice,
    Reference,
)
from contracts.changes import Author
from contracts.money import COST_NANOS_MAX
from contracts.problems import (
    ALREADY_VOIDED,
    CONFLICT,
    INVALID_REQUEST,
    NOT_FOUND,
    PERIOD_ARCHIVED,
    FieldError,
    ProblemError,
    broken_rule,
)
from ledger_service.authorship import author_now
from ledger_service.domain.adjustments import (
    Amounts,
    Chain,
    Entry,
    NotVoidableError,
    VoidedError,
    add,
    rerate,
    void,
)
from ledger_service.domain.ledger_events import ADJUSTMENT_RECORDED, ledger_event
from ledger_service.recording import project
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.adjustments import (
    Cell,
    Counted,
    append_adjustments,
    find_counted,
    give_back_cells,
    read_chains,
    reserve_cells,
)
from ledger_service.store.event_log import clear_incoming, find_events, find_finished
from ledger_service.store.periods import hold_periods
from ledger_service.store.pool import REFUSED, Connection, in_transaction

Answer = TypeVar("Answer")

_AMOUNTS: Final = ("calls", "units", "failures", "cost")
_ABOUT: Final = ("user_id", "project_id", "api_key_id", "operation", "provider", "model", "occurred_at")


class Asked(NamedTuple):
    """An adjustment that somebody wants; of a repricing, which one, and by which price."""

    adjustment: Adjustment
    author: str
    repricing_id: UUID | None = None
    price: AppliedPrice | None = None


async def adjust(connection: Connection, wanted: Adjustment, author: str) -> AdjustmentStored:
    """Records an adjustment. The same again changes nothing and answers the same.

    Raises ProblemError: invalid_request, not_found, conflict (the id came with another body), already_voided. The
    connection has its staging table (event_log.prepare_connection).
    """
    return await _adjust(connection, wanted, author, trial=False)


async def try_adjustment(connection: Connection, wanted: Adjustment, author: str) -> AdjustmentStored:
    """What ``adjust`` would record, by recording it in a transaction that is rolled back: nothing of it stays.

    Raises what that raises.
    """
    try:
        await _adjust(connection, wanted, author, trial=True)
    except _TriedError as tried:
        return tried.stored
    raise AssertionError("unreachable: a trial ends in its error")


class _TriedError(Exception):
    """Ends the transaction of a trial."""

    def __init__(self, stored: AdjustmentStored) -> None:
        super().__init__("a trial")
        self.stored = stored


async def _adjust(connection: Connection, wanted: Adjustment, author: str, *, trial: bool) -> AdjustmentStored:
    refuse_wrong_fields(wanted)

    async def record() -> AdjustmentStored:
        [stored] = await _record(connection, wanted.account_id, [Asked(wanted, author)], leave_out=False)
        if trial:
            raise _TriedError(stored)
        return stored

    try:
        return await in_transaction(connection, record)
    except REFUSED as error:
        raise ProblemError(INVALID_REQUEST, f"the database refuses the adjustment: {error}") from None


async def adjust_all(connection: Connection, account_id: str, wanted: Sequence[Asked]) -> list[AdjustmentStored]:
    """Records adjustments of one account, also such as add nothing and only say something, in one transaction.

    The same again changes nothing. Raises ProblemError as ``adjust`` does; then none of them is recorded.
    """
    return await in_transaction(connection, lambda: _record(connection, account_id, wanted, leave_out=False))


async def rerate_all(connection: Connection, account_id: str, wanted: Sequence[Asked]) -> list[AdjustmentStored]:
    """Rates operations of one account again, in one transaction. Leaves out what was voided, has its cost already, or
    was rated again under the same id before."""
    return await in_transaction(connection, lambda: _record(connection, account_id, wanted, leave_out=True))


def refuse_wrong_fields(wanted: Adjustment) -> None:
    """Raises ProblemError where fields do not go together."""
    kind, reference = wanted.kind, wanted.reference
    if reference is not None and (reference.operation_id is None) == (reference.adjustment_id is None):
        raise broken_rule("reference", "reference", "name either an operation_id or an adjustment_id")
    if kind is AdjustmentKind.ADJUSTMENT:
        if not any(getattr(wanted, name) for name in _AMOUNTS):
            raise broken_rule("cost", "nothing_to_adjust", "one of calls, units, failures and cost is not zero")
        _refuse(wanted, _ABOUT if reference is not None else (), "is that of what the reference names")
        return
    if reference is None:
        raise broken_rule("reference", "missing", f"a {kind.value} is of something that is in the log")
    _refuse(wanted, _ABOUT, "is that of what the reference names")
    if kind is AdjustmentKind.VOID:
        _refuse(wanted, _AMOUNTS, "follows from what is taken back")
        return
    _refuse(wanted, _AMOUNTS[:3], "is not changed by another cost")
    if reference.operation_id is None:
        raise broken_rule("reference.operation_id", "missing", "only operations are rated")
    if wanted.cost is None or wanted.cost < 0:
        raise broken_rule("cost", "cost", f"what the operation shall cost: from 0 to {COST_NANOS_MAX // 10**9} dollars")


def _refuse(wanted: Adjustment, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(wanted, name) is not None:
            raise broken_rule(name, "not_with_this", why)


async def _record(
    connection: Connection, account_id: str, wanted: Sequence[Asked], *, leave_out: bool
) -> list[AdjustmentStored]:
    targets, now = await _targets(connection, account_id, wanted), datetime.now(UTC)
    abouts = {one.adjustment.adjustment_id: _about(one.adjustment, targets, now) for one in wanted}
    # What they are about never changes, but what it comes to does: only that is read under the lock.
    booked = await hold_periods(connection, account_id, {_month(about) for about in abouts.values()})
    cells = {id_: _cell(about, booked[_month(about)]) for id_, about in abouts.items()}
    empty = await reserve_cells(connection, account_id, set(cells.values()))
    await lock_accounts(connection, [account_id])
    earlier = await find_events(connection, [(account_id, id_) for id_ in abouts])
    roots = {about.corrects for about in abouts.values() if about.corrects is not None}
    chains = await read_chains(connection, account_id, roots) if roots else {}
    author = await author_now(connection)
    answers, made = [], []
    for one in wanted:
        adjustment_id = one.adjustment.adjustment_id
        body = earlier.get((account_id, adjustment_id))
        if body is not None:
            if not leave_out:
                answers.append(_same(one.adjustment, body))
            continue
        about = abouts[adjustment_id]
        chain = None if about.corrects is None else chains[about.corrects]
        try:
            stored = _decided(one, about, chain, booked[_month(about)])
        except VoidedError:
            if leave_out:
                continue
            raise ProblemError(ALREADY_VOIDED, f"{_named(one.adjustment)} was taken back already") from None
        if leave_out and not stored.cost:
            continue
        if chain is not None:
            chains[chain.root.entry_id] = chain._replace(corrections=(*chain.corrections, _entry(stored)))
        answers.append(stored)
        made.append((stored, _event(one.adjustment, stored, author)))
    if made:
        for lost in await append_adjustments(connection, made):
            raise ProblemError(CONFLICT, f"the log has {lost.adjustment_id} as the id of something else")
        await project(connection, [account_id])
        await clear_incoming(connection)
    await give_back_cells(connection, account_id, empty - {cells[stored.adjustment_id] for stored, _ in made})
    return answers


async def _targets(connection: Connection, account_id: str, wanted: Sequence[Asked]) -> Mapping[UUID, Counted]:
    ids = {_target_id(one.adjustment) for one in wanted} - {None}
    found = await find_counted(connection, account_id, [id_ for id_ in ids if id_ is not None]) if ids else {}
    for one in wanted:
        reference, target_id = one.adjustment.reference, _target_id(one.adjustment)
        if reference is None or target_id is None:
            continue
        target = found.get(target_id)
        if target is None or (target.kind is None) != (reference.operation_id is not None):
            field = f"reference.{'operation_id' if reference.operation_id else 'adjustment_id'}"
            if target is None and await find_finished(connection, [(account_id, target_id)]):
                raise ProblemError(
                    PERIOD_ARCHIVED, f"{_named(one.adjustment)} is in an archive: see `ledger unarchive`"
                )
            what = f"nothing of account {account_id} is recorded as {_named(one.adjustment)}"
            raise ProblemError(NOT_FOUND, what, [FieldError(field=field, rule="unknown", message=what)])
        if target.kind not in (None, AdjustmentKind.ADJUSTMENT):
            message = f"{target_id} is a {target.kind}: rate its operation again, or record free amounts"
            raise broken_rule("reference.adjustment_id", "not_voidable", message)
    return found


def _target_id(adjustment: Adjustment) -> UUID | None:
    reference = adjustment.reference
    return None if reference is None else reference.operation_id or reference.adjustment_id


def _named(adjustment: Adjustment) -> str:
    reference = adjustment.reference or Reference()
    return f"{'operation' if reference.operation_id else 'adjustment'} {_target_id(adjustment)}"


class _About(NamedTuple):
    """For whom and what, and when, an adjustment counts."""

    corrects: UUID | None
    user_id: str | None
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    occurred_at: datetime
    counted_at: datetime


def _about(wanted: Adjustment, targets: Mapping[UUID, Counted], now: datetime) -> _About:
    target_id = _target_id(wanted)
    if target_id is None:
        at = (wanted.occurred_at or now).astimezone(UTC)
        return _About(
            None, wanted.user_id, wanted.project_id, wanted.api_key_id, wanted.operation or NO_KIND,
            wanted.provider or NO_KIND, wanted.model or NO_KIND, at, at,
        )  # fmt: skip
    target = targets[target_id]
    return _About(
        target.corrects or target.entry_id, target.user_id, target.project_id, target.api_key_id, target.operation,
        target.provider, target.model, target.occurred_at, target.counted_at,
    )  # fmt: skip


def _month(about: _About) -> date:
    return about.occurred_at.astimezone(UTC).date().replace(day=1)


def _cell(about: _About, booked: date) -> Cell:
    return Cell(booked, about.operation, about.provider, about.model)


def _decided(asked: Asked, about: _About, chain: Chain | None, booked: date) -> AdjustmentStored:
    wanted = asked.adjustment
    free = Amounts(wanted.calls or 0, wanted.units or 0, wanted.failures or 0, wanted.cost or 0)
    amounts = free if chain is None else _amounts(wanted, chain, free)
    of_operation = chain is not None and chain.root.kind is None
    before = chain.current().cost_nanos if chain is not None and of_operation else None
    return AdjustmentStored.model_construct(
        adjustment_id=wanted.adjustment_id,
        account_id=wanted.account_id,
        kind=wanted.kind,
        reason=wanted.reason,
        author=asked.author,
        reference=wanted.reference,
        calls=amounts.calls,
        units=amounts.units,
        failures=amounts.failures,
        cost=amounts.cost_nanos,
        cost_before=before,
        cost_after=None if before is None else before + amounts.cost_nanos,
        repricing_id=asked.repricing_id,
        price=asked.price,
        booked_period=f"{booked:%Y-%m}",
        **about._asdict(),
    )


def _amounts(wanted: Adjustment, chain: Chain, free: Amounts) -> Amounts:
    match wanted.kind:
        case AdjustmentKind.ADJUSTMENT:
            return add(chain, free)
        case AdjustmentKind.RERATE:
            assert wanted.cost is not None
            return rerate(chain, wanted.cost)
        case AdjustmentKind.VOID:
            target_id = _target_id(wanted)
            assert target_id is not None
            try:
                return void(chain, target_id)
            except NotVoidableError:
                raise AssertionError("unreachable: _targets() has refused it") from None
        case _:
            assert_never(wanted.kind)


def _entry(stored: AdjustmentStored) -> Entry:
    voids = None
    if stored.kind is AdjustmentKind.VOID and stored.reference is not None:
        voids = stored.reference.operation_id or stored.reference.adjustment_id
    amounts = Amounts(stored.calls, stored.units, stored.failures, stored.cost)
    return Entry(stored.adjustment_id, stored.kind, amounts, voids)


# --- as an event of the log

_OF_CORRECTION: Final = frozenset(
    {"kind", "reason", "author", "reference", "corrects", "cost_before", "cost_after", "repricing_id", "price"}
)


def _event(wanted: Adjustment, stored: AdjustmentStored, author: Author) -> bytes:
    data = stored.model_dump(mode="json", exclude=set(_OF_CORRECTION))
    data["adjustment"] = stored.model_dump(mode="json", include=set(_OF_CORRECTION))
    data["request"] = _request(wanted)
    return ledger_event(stored.adjustment_id, ADJUSTMENT_RECORDED, stored.account_id, stored.occurred_at, data, author)


def _request(wanted: Adjustment) -> object:
    return wanted.model_dump(mode="json", exclude_none=True)


def _same(wanted: Adjustment, body: str) -> AdjustmentStored:
    """What the log has under the adjustment's id. Raises ProblemError where that is something else."""
    event = orjson.loads(body)
    if event["type"] != ADJUSTMENT_RECORDED or event["data"]["request"] != _request(wanted):
        raise ProblemError(CONFLICT, f"adjustment {wanted.adjustment_id} came before with another body")
    return stored_adjustment(event["data"])


def stored_adjustment(data: Mapping[str, object]) -> AdjustmentStored:
    """The adjustment in the data of its event."""
    correction = data["adjustment"]
    assert isinstance(correction, dict)
    fields = {name: value for name, value in data.items() if name not in ("adjustment", "request")}
    return AdjustmentStored.model_validate({**fields, **correction})
