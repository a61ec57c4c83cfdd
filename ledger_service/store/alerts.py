"""Alerts: thresholds that were reached, each once a window."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from contracts.identifiers import uuid7
from contracts.limits import Meter
from ledger_service.domain.alerts import Alert, next_amount, reached, read_thresholds
from ledger_service.domain.counters import CounterKey
from ledger_service.domain.ledger_events import THRESHOLD_REACHED, ledger_event
from ledger_service.store.counters import watch
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def raise_alerts(connection: "Connection", alerts: Collection[Alert], now: datetime) -> None:
    """Keeps and logs those that were not raised before. The accounts must be locked. Idempotent."""
    if alerts:
        await connection.execute(SQL["raise"], *zip(*(_row(alert, now) for alert in alerts), strict=True))


async def raise_for_counters(connection: "Connection", rows: "Iterable[asyncpg.Record]") -> None:
    """Raises what the counters in these rows have reached, and says what to watch them for next.

    The rows are what the counters' projection answers: key, meter, used, watched, now.
    """
    alerts, amounts, now = [], {}, None
    for row in rows:
        key, now = CounterKey(*row[:5]), row["now"]
        thresholds = read_thresholds(row["watched"])
        alerts += reached(thresholds, key, Meter(row["meter"]), row["used"])
        amounts[key] = (row["watched"], next_amount(thresholds, row["used"]))
    if now is not None:
        await raise_alerts(connection, alerts, now)
        await watch(connection, amounts)


async def list_alerts(
    connection: "Connection", account_id: str, start: datetime, end: datetime, rows_max: int
) -> "list[asyncpg.Record]":
    """Bodies of the alerts raised from ``start`` until before ``end``, newest first."""
    return await connection.fetch(SQL["list"], account_id, start, end, rows_max)


def _row(alert: Alert, now: datetime) -> tuple[object, ...]:
    key, threshold, event_id = alert.key, alert.threshold, uuid7()
    body = ledger_event(event_id, THRESHOLD_REACHED, key.account_id, now, alert.data()).decode()
    return (
        key.account_id, threshold.limit_id, key.scope_key, key.period_start, key.period_end, threshold.percent,
        threshold.maximum, event_id, alert.used, now, body,
    )  # fmt: skip
