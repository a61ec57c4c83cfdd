"""What the ledger has of earlier imports from ALwrity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from contracts.limits import Plan
from contracts.problems import PERIOD_ARCHIVED, ProblemError
from ledger_service.domain.alwrity.operations import AGGREGATED
from ledger_service.domain.alwrity.standing import NOTHING, OPENING, Figures
from ledger_service.domain.alwrity.usage import PERIOD_KEY, SOURCE
from ledger_service.domain.alwrity.wrapping import Aggregate, Detail
from ledger_service.domain.ledger_events import ADJUSTMENT_RECORDED, PLAN_CHANGED
from ledger_service.store.archives import usage_log_begins
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Whose adjustments are the import's own.
AUTHOR: Final = "import-alwrity"

ByPeriod = dict[str, Figures]


async def find_known(connection: "Connection", keys: Sequence[tuple[str, UUID, UUID]]) -> tuple[set[UUID], set[UUID]]:
    """Of events (account, event id, operation id) the ids of those that are in the log, and of those whose operation
    has an outcome there."""
    rows = await connection.fetch(SQL["known"], *zip(*keys, strict=True))
    return (
        {row["event_id"] for row in rows if row["is_recorded"]},
        {row["event_id"] for row in rows if row["is_finished"]},
    )


async def refuse_archived_imports(connection: "Connection", account_ids: Sequence[str]) -> None:
    """Raises ProblemError (period_archived) where some of what was imported for these accounts is in archives: to an
    import it would look as if it had never come, and be opened anew."""
    begins = await usage_log_begins(connection)
    if begins is None:
        return
    found = await connection.fetchval(SQL["archived"], list(account_ids), begins, AUTHOR, SOURCE, ADJUSTMENT_RECORDED)
    if found is not None:
        message = f"what was imported for account {found} from before {begins:%Y-%m} is in archives"
        raise ProblemError(PERIOD_ARCHIVED, f"{message}: have `ledger unarchive` bring it back, then import again")


async def read_recorded(connection: "Connection", account_id: str) -> tuple[ByPeriod, ByPeriod]:
    """What the account has of imported rows, by ALwrity's billing period; and of those, what happened in another month
    than that."""
    total: ByPeriod = {}
    elsewhere: ByPeriod = {}
    for row in await connection.fetch(SQL["recorded"], account_id, PERIOD_KEY, AUTHOR):
        figures = Figures(
            row["rows"], row["calls"] + row["failures"], row["failures"], row["cost_nanos"], row["tokens"]
        )
        total[row["period"]] = total.get(row["period"], NOTHING).plus(figures)
        if row["is_elsewhere"]:
            elsewhere[row["period"]] = figures
    return total, elsewhere


async def read_opened(connection: "Connection", account_id: str) -> ByPeriod:
    """What opening balances add, by month."""
    rows = await connection.fetch(SQL["opened"], account_id, OPENING, AUTHOR)
    return {row["period"]: Figures(1, row["calls"], 0, row["cost_nanos"]) for row in rows}


async def read_totals(connection: "Connection", account_id: str) -> ByPeriod:
    """All that the account has, by month."""
    return {
        row["period"]: Figures(0, row["calls"] + row["failures"], row["failures"], row["cost_nanos"])
        for row in await connection.fetch(SQL["totals"], account_id)
    }


async def read_plan_versions(connection: "Connection", plan_id: str) -> list[Plan]:
    """Every form that a plan ever had."""
    rows = await connection.fetch(SQL["plan_versions"], PLAN_CHANGED, plan_id)
    bodies = [orjson.loads(row["body"])["data"] for row in rows]
    return [
        Plan.model_validate({name: value for name, value in body.items() if name in Plan.model_fields})
        for body in bodies
    ]


async def read_aggregates(connection: "Connection", account_id: str) -> list[Aggregate]:
    """The aggregated rows of an account that were imported before."""
    rows = await connection.fetch(SQL["aggregates"], account_id, AGGREGATED, PERIOD_KEY)
    return [Aggregate(row["event_id"], row["requested_provider"], row["period"], row["occurred_at"], 0) for row in rows]


async def read_details(connection: "Connection", account_id: str, aggregate: Aggregate) -> list[Detail]:
    """What the ledger has, one by one, of the aggregate's provider and period."""
    rows = await connection.fetch(
        SQL["details"], account_id, aggregate.provider, PERIOD_KEY, aggregate.period, AGGREGATED
    )
    return [
        Detail(row["event_id"], row["occurred_at"], Figures(1, 1, int(row["outcome"] == "failed"), row["cost_nanos"]))
        for row in rows
    ]
