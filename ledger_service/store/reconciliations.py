"""What the ledger has for a provider, as reconciliation compares it with an invoice."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final

import asyncpg

from contracts.events import OUTCOME_UNKNOWN
from contracts.provider_calls import ProviderCall, read_calls
from ledger_service.domain.reconciliation import Charge
from ledger_service.domain.reconciliation_shares import Correction, corrections_by_provider
from ledger_service.store.pool import CONNECT_TIMEOUT_SECONDS
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
_PREFETCH: Final = 5_000
_SETTINGS: Final = {"application_name": "ledger-reconciliation", "jit": "off"}


@asynccontextmanager
async def open_snapshot(database_url: str) -> "AsyncIterator[Connection]":
    """A connection of its own, in one read-only transaction that sees the ledger as it is now."""
    connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=_SETTINGS)
    try:
        await connection.transaction(isolation="repeatable_read", readonly=True).start()
        yield connection
    finally:
        connection.terminate()


async def read_charges(
    connection: "Connection", provider: str, start: datetime, end: datetime, *, by_end: bool
) -> AsyncIterator[Charge]:
    """In no order. ``by_end``: from start until before end are those that ended then, else those that began. What is in
    archives is not among them."""
    cursor = connection.cursor(
        SQL["charges"], provider, start, end, by_end, OUTCOME_UNKNOWN, prefetch=_PREFETCH
    )  # fmt: skip
    async for row in cursor:
        charge = _charge(row, provider)
        if charge is not None:
            yield charge


def _charge(row: asyncpg.Record, provider: str) -> Charge | None:
    """None: of what is named elsewhere, this provider was not called. A void takes back what any of them billed."""
    calls, cost, is_own = read_calls(row["provider_calls"]), row["cost_nanos"], row["provider"] == provider
    own = [call for call in calls if call.provider == provider]
    if sum(call.cost for call in calls) == cost and own:
        amount = sum(call.cost for call in own)
        corrections = _corrections(row, calls)[provider] if row["corrections"] else []
    elif is_own:  # one call, or calls that do not say all of it
        amount, corrections = cost, row["correction_costs"] or []
    else:
        return None
    elsewhere = cost + row["corrected_nanos"] - amount - sum(corrections)
    amount += sum(corrections)
    if row["is_voided"]:
        amount = elsewhere = 0
    return Charge(
        account_id=row["account_id"],
        entry_id=row["operation_id"],
        operation=row["operation"],
        job_ids=tuple(job_id for call in own for job_id in call.job_ids),
        at=row["at_microseconds"],
        model=row["model"] if is_own else own[0].model,
        quantity=row["quantity"],
        amount=amount,
        elsewhere=elsewhere,
        corrections=row["corrections"],
        in_doubt=row["in_doubt"] and is_own and not corrections,
        is_adjustment=row["is_adjustment"],
        is_voided=row["is_voided"],
    )


def _corrections(row: asyncpg.Record, calls: Sequence[ProviderCall]) -> dict[str, list[int]]:
    billed = Counter[str]()
    for call in calls:
        billed[call.provider] += call.cost
    corrections = map(Correction, row["correction_ids"], row["correction_costs"])
    return corrections_by_provider(row["operation_id"], row["provider"], billed, list(corrections))
