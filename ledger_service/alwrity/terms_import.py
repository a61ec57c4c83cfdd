"""ALwrity's plans, subscriptions and price list into the ledger: what it does not have yet. What it has stays."""

from collections.abc import Mapping
from datetime import date

from contracts.limits import Account, Plan
from ledger_service.administration import change_account, change_plan
from ledger_service.alwrity.reading import Material
from ledger_service.alwrity.report import TermsReport
from ledger_service.domain.alwrity.terms import FoundAccount, FoundPlan, account_on, earliest_of_each, variant_id
from ledger_service.domain.alwrity.usage import account_of
from ledger_service.domain.price_versions import Put
from ledger_service.price_changes import change_prices, key_of
from ledger_service.store.accounts import find_account, find_plan
from ledger_service.store.alwrity import read_plan_versions
from ledger_service.store.pool import Connection
from ledger_service.store.prices import read_versions

#: Billing periods are calendar months.
_CALENDAR_MONTHS = date(2000, 1, 1)


class TermsImport:
    """One import's; nothing is written in a dry run. Asked again, it finds everything there."""

    def __init__(
        self, connection: Connection, material: Material, plan_prefix: str, account_prefix: str, *, dry_run: bool
    ) -> None:
        self._connection, self._material, self._dry_run = connection, material, dry_run
        self._plan_prefix, self._account_prefix = plan_prefix, account_prefix
        self._report = TermsReport()
        #: What stands, or would after this import.
        self._standing: dict[str, Plan] = {}
        self._counted: set[str] = set()

    async def run(self) -> TermsReport:
        ids = [
            {row: await self._plan(found) for row, found in sorted(plans.by_row.items())}
            for plans in self._material.plans
        ]
        await self._accounts(ids)
        await self._prices()
        return self._report

    async def _plan(self, found: FoundPlan) -> str:
        """The id under which the ledger has the plan from now on."""
        found = found._replace(plan_id=f"{self._plan_prefix}{found.plan_id}")
        standing = await self._stands(found.plan_id)
        if standing is None:
            await self._put(found.plan_id, found)
            return found.plan_id
        if standing == found.plan:
            self._count_plan(found.plan_id, "unchanged")
            return found.plan_id
        if any(found.plan == one for one in await read_plan_versions(self._connection, found.plan_id)):
            self._say(f"plan {found.plan_id} was changed in the ledger since it was imported, and stays as it is")
            self._count_plan(found.plan_id, "kept")
            return found.plan_id
        other = variant_id(found)
        if await self._stands(other) is not None:
            self._count_plan(other, "unchanged")
        else:
            self._say(f"plan {found.plan_id} has other limits in another file: imported as {other}")
            await self._put(other, found)
        return other

    async def _stands(self, plan_id: str) -> Plan | None:
        if plan_id not in self._standing:
            stored = await find_plan(self._connection, plan_id)
            if stored is None:
                return None
            self._standing[plan_id] = Plan(**{name: getattr(stored, name) for name in Plan.model_fields})
        return self._standing[plan_id]

    async def _put(self, plan_id: str, found: FoundPlan) -> None:
        if not self._dry_run:
            await change_plan(self._connection, plan_id, found.plan)
        self._standing[plan_id] = found.plan
        self._count_plan(plan_id, "new")
        if found.left_out:
            self._say(f"plan {plan_id}: the ledger has no limits for {', '.join(found.left_out)}: left out")

    def _count_plan(self, plan_id: str, what: str) -> None:
        # The same plan is in each user's file.
        if plan_id not in self._counted:
            self._counted.add(plan_id)
            self._report.plans[what] += 1

    async def _accounts(self, ids: list[dict[int, str]]) -> None:
        found: dict[str, tuple[int, FoundAccount]] = {}
        for source, one in self._material.accounts:
            other = found.get(one.user_id)
            if other is None or one.anchor > other[1].anchor:
                found[one.user_id] = source, one
        free = self._free_plan(ids)
        for user_id in sorted(self._material.users - found.keys()):
            if free is not None:
                remark = "has no subscription: on the free plan, as ALwrity has it"
                found[user_id] = free[0], FoundAccount(user_id, None, _CALENDAR_MONTHS, remark)
        for user_id, (source, one) in sorted(found.items()):
            own_free = self._material.plans[source].free
            row = one.plan_row if one.plan_row is not None else own_free.row_id if own_free else None
            plan_id = ids[source].get(row) if row is not None else None
            if plan_id is None:
                self._say(f"account of {user_id}: its plan (row {row}) is not in the file; it is on none")
                self._report.accounts["without a plan"] += 1
                continue
            await self._account(account_of(user_id, self._account_prefix), account_on(plan_id, one.anchor), one.remark)

    def _free_plan(self, ids: list[dict[int, str]]) -> tuple[int, str] | None:
        for source, plans in enumerate(self._material.plans):
            if plans.free is not None:
                return source, ids[source][plans.free.row_id]
        return None

    async def _account(self, account_id: str, wanted: Account, remark: str | None) -> None:
        row = await find_account(self._connection, account_id)
        if row is None or row["plan_id"] is None:
            if not self._dry_run:
                await change_account(self._connection, account_id, wanted)
            self._report.accounts["new"] += 1
            if remark:
                self._say(f"account {account_id} {remark}")
            return
        if _same(dict(row), wanted):
            self._report.accounts["unchanged"] += 1
            return
        self._report.accounts["kept"] += 1
        self._say(f"account {account_id} is on plan {row['plan_id']} from {row['billing_anchor']}, and stays there")

    async def _prices(self) -> None:
        versions = earliest_of_each(self._material.prices)
        async with self._connection.transaction():
            standing = await read_versions(self._connection, {key_of(one.key) for one in versions})
            puts = []
            for one in versions:
                there = standing.get(key_of(one.key))
                if there is None:
                    puts.append(Put(key_of(one.key), one.price))
                    self._report.prices["new"] += 1
                elif any(each.price.variants == one.price.variants for each in there):
                    self._report.prices["unchanged"] += 1
                else:
                    self._report.prices["kept"] += 1
                    self._say(f"the catalogue has another price for {one.key}, and keeps it")
            if puts and not self._dry_run:
                await change_prices(self._connection, puts)

    def _say(self, line: str) -> None:
        if line not in self._report.lines:
            self._report.lines.append(line)


def _same(row: Mapping[str, object], wanted: Account) -> bool:
    return (row["plan_id"], row["time_zone"], row["billing_anchor"]) == (
        wanted.plan_id, wanted.time_zone, wanted.billing_anchor,
    )  # fmt: skip
