"""What an operation leaves behind for people: one structured log line, and on a terminal a readable block."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import structlog

from contracts.limits import Decision, LimitState, Meter
from contracts.money import format_nanos, parse_nanos
from image_service.calls import Call

Status = Literal["completed", "failed", "denied", "refused"]

_log = structlog.stdlib.get_logger("image_service.operation")


@dataclass(frozen=True)
class Report:
    """How an operation went. Cost in nano-dollars; ``error_code`` where it did not complete."""

    call: Call
    status: Status
    decision: Decision | None
    cost_nanos: int
    duration_ms: int
    error_code: str | None = None
    #: Those that did the work, where they are not the first that were chosen.
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class LimitMove:
    """What the operation did to one limit. Amounts in the meter's own: calls, units, or decimal dollars."""

    limit_id: str
    meter: Meter
    period: str
    before: int | str
    after: int | str
    maximum: int | str


class OperationLog:
    """Writes a report where it belongs."""

    def __init__(self, *, console: bool | None, on_report: Callable[[Report], None]) -> None:
        self._on_report = on_report
        self._console = sys.stdout.isatty() if console is None else console

    def write(self, report: Report) -> None:
        self._on_report(report)
        call, selection = report.call, report.call.selection
        _log.info(
            "operation",
            operation_id=str(call.operation_id),
            account_id=call.caller.account_id,
            user_id=call.caller.user_id,
            operation=call.operation.name,
            provider=report.provider or selection.provider,
            model=report.model or selection.model,
            quantity=selection.quantity,
            outcome=report.status,
            error_code=report.error_code,
            duration_ms=report.duration_ms,
            cost=format_nanos(report.cost_nanos),
            plan_id=report.decision.plan_id if report.decision else None,
            limits=[
                {"limit_id": move.limit_id, "before": move.before, "after": move.after, "maximum": move.maximum}
                for move in limit_moves(report)
            ],
        )
        if self._console:
            with suppress(OSError, ValueError):  # nobody reads it any more
                sys.stdout.write(readable_block(report))
                sys.stdout.flush()


def limit_moves(report: Report) -> list[LimitMove]:
    """Each limit before and after the operation, by the decision's account of it.

    The decision shows a limit with this operation's share held already, where it was admitted.
    """
    if report.decision is None:
        return []
    held_for = report.call.selection if report.decision.allowed else None
    moves = []
    for state in report.decision.limits:
        used = _amount(state, state.settled) + _amount(state, state.held)
        own = _share(state.meter, held_for.quantity, _held_nanos(report)) if held_for else 0
        before = used - own
        after = before + _settled_share(report, state.meter)
        moves.append(
            LimitMove(
                state.limit_id,
                state.meter,
                state.period,
                _shown(state.meter, before),
                _shown(state.meter, after),
                state.maximum,
            )
        )
    return moves


def _held_nanos(report: Report) -> int:
    """What was held as cost: the provider's own price, or what the ledger rated it at."""
    own = report.call.selection.first.quote.cost_nanos
    rated = report.decision.estimated_cost if report.decision else None
    return own if own is not None else rated or 0


def readable_block(report: Report) -> str:
    """The report for people's eyes, several lines."""
    call, selection = report.call, report.call.selection
    status = report.status if report.error_code is None else f"{report.status}: {report.error_code}"
    plan = report.decision.plan_id if report.decision else None
    lines = [
        f"── {call.operation.name} {'─' * max(1, 56 - len(call.operation.name))}",
        f"  account    {call.caller.account_id} (user {call.caller.user_id}){f', plan {plan}' if plan else ''}",
        f"  provider   {report.provider or selection.provider}, model {report.model or selection.model}",
    ]
    moves = limit_moves(report)
    lines += [
        f"  {move.meter:<9}  {move.before} → {move.after} / {move.maximum}  ({move.limit_id}, {move.period})"
        for move in moves
    ]
    if not any(move.meter is Meter.COST for move in moves):
        lines.append(f"  cost       + {format_nanos(report.cost_nanos)}")
    lines.append(f"  status     {status} in {report.duration_ms} ms  {call.operation_id}")
    return "\n".join(lines) + "\n"


def _amount(state: LimitState, value: int | str) -> int:
    return parse_nanos(value) if state.meter is Meter.COST else int(value)


def _shown(meter: Meter, amount: int) -> int | str:
    return format_nanos(amount) if meter is Meter.COST else amount


def _share(meter: Meter, quantity: int, cost_nanos: int) -> int:
    return {Meter.CALLS: 1, Meter.UNITS: quantity, Meter.COST: cost_nanos}[meter]


def _settled_share(report: Report, meter: Meter) -> int:
    """What stays used: all of it once completed; of a failure only what was billed."""
    if report.status == "completed":
        return _share(meter, report.call.selection.quantity, report.cost_nanos)
    return report.cost_nanos if meter is Meter.COST else 0
