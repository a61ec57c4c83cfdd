"""Reports over the usage log."""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from contracts.reports import EstimateLine
from ledger_service.store.archives import refuse_archived
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
LINES_MAX: Final = 10_000
RATIO_DECIMALS: Final = 4
#: A report looks back this far unless it is told how far.
DAYS_DEFAULT: Final = 30


async def read_estimates(
    connection: "Connection", start: datetime, end: datetime, account_id: str | None
) -> list[EstimateLine]:
    """What was held beside what was settled: ``start`` ≤ occurred_at < ``end``, of one account or of all.

    To be called in a transaction.
    """
    await refuse_archived(connection, start, "the report")
    await connection.fetch(SQL["scan"])  # until the transaction ends
    rows = await connection.fetch(SQL["estimates"], start, end, account_id, LINES_MAX)
    return [_estimate_line(row) for row in rows]


def _estimate_line(row: "asyncpg.Record") -> EstimateLine:
    held, settled = int(row["held"]), int(row["settled"])
    return EstimateLine(
        provider=row["provider"],
        model=row["model"],
        operation=row["operation"],
        operations=row["operations"],
        held=held,
        settled=settled,
        ratio=_rounded(Decimal(settled) / held if held else None),
        p50=_rounded(row["p50"]),
        p95=_rounded(row["p95"]),
        held_at_nothing=row["held_at_nothing"],
        above=row["above"],
        worst_above=row["worst_above"],
        worst_account_id=row["worst_account_id"],
        worst_operation_id=row["worst_operation_id"],
    )


def _rounded(ratio: Decimal | None) -> float | None:
    # A ratio is no money: it may leave as a float.
    return None if ratio is None else float(round(ratio, RATIO_DECIMALS))
