"""The adjustments that an import makes; each has an id that follows from what it says."""

from contracts.adjustments import Adjustment, AdjustmentKind
from contracts.money import format_nanos
from ledger_service.adjusting import Asked
from ledger_service.domain.alwrity.standing import OPENING, OPENING_PROVIDER, SUMMARIES, Figures, Opening
from ledger_service.domain.alwrity.usage import TABLE, Usage
from ledger_service.domain.alwrity.values import derived_id
from ledger_service.store.alwrity import AUTHOR


def for_aggregated(usage: Usage) -> Asked | None:
    """What an aggregated row counts beyond the one call that its event is."""
    extra = usage.extra
    if extra is None:
        return None
    return _asked(
        adjustment_id=extra.adjustment_id,
        account_id=usage.account_id,
        reason=extra.reason,
        reference={"operation_id": usage.operation_id},
        calls=extra.calls,
        failures=extra.failures,
    )


def for_recorded_before(usage: Usage, before: Figures) -> Asked:
    """What is taken off an aggregated row, as the ledger has it one by one."""
    succeeded = before.calls - before.failures
    return _asked(
        adjustment_id=derived_id(usage.occurred_at, "recorded before", usage.event_id),
        account_id=usage.account_id,
        reason=f"{before.calls} of the calls that ALwrity's row {usage.row_id} of {TABLE} stands for were imported "
        "before, one by one",
        reference={"operation_id": usage.operation_id},
        calls=-succeeded,
        units=-succeeded,
        failures=-before.failures,
        cost=format_nanos(-before.cost_nanos),
    )


def for_opening(account_id: str, opening: Opening) -> Asked:
    """What a summary says beyond its rows; of nothing, where it says less."""
    return _asked(
        adjustment_id=opening.adjustment_id,
        account_id=account_id,
        reason=opening.reason,
        calls=opening.calls,
        units=opening.calls,
        cost=format_nanos(opening.cost_nanos),
        user_id=opening.user_id,
        operation=OPENING,
        provider=OPENING_PROVIDER,
        model=SUMMARIES,
        occurred_at=opening.occurred_at,
    )


def _asked(**fields: object) -> Asked:
    return Asked(Adjustment.model_validate({"kind": AdjustmentKind.ADJUSTMENT, **fields}), AUTHOR)
