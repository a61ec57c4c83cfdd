"""The terms of accounts: read under the accounts' locks, from caches that versions keep true."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.limits import LimitCheck, PlanStored
from ledger_service.domain.credits import Grant
from ledger_service.domain.periods import Calendar
from ledger_service.domain.terms import Override, Selected, Terms
from ledger_service.store.accounts import add_seen, find_plan
from ledger_service.store.arrays import array_literal, array_literals
from ledger_service.store.counters import Callers
from ledger_service.store.credit_grants import load_grants
from ledger_service.store.decisions import Known, OperationKey, to_known
from ledger_service.store.overrides import load_overrides
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class _Additions(NamedTuple):
    """What an account's terms add to its plan, as of a version."""

    version: int
    overrides: tuple[Override, ...] = ()
    grants: tuple[Grant, ...] = ()


_NO_ADDITIONS: Final = _Additions(0)


class _KnownPlan(NamedTuple):
    """A plan (None: there is none by that id), and which of its limits select what."""

    plan: PlanStored | None
    selected: Selected


_NO_PLAN: Final = _KnownPlan(None, {})


class TermsCache:
    """Plans by id, and overrides and grants by account, each with its version: an older one is read again. Calendars
    too, so that accounts with the same one share what it remembers."""

    _ENTRIES_MAX: Final = 10_000

    def __init__(self, *, is_exact: bool = False) -> None:
        """``is_exact``: never what came after the connection's snapshot, for answers that are of one moment."""
        self._is_exact = is_exact
        self._plans: dict[str, _KnownPlan] = {}
        self._additions: dict[str, _Additions] = {}
        self._calendars: dict[tuple[str, date], Calendar] = {}
        #: Of accounts that add nothing to their plan, by plan and calendar: as long as the plan is the remembered one.
        self._shared: dict[tuple[str | None, str, date], tuple[_KnownPlan, Terms]] = {}

    async def terms(self, connection: "Connection", rows: "Sequence[asyncpg.Record]") -> dict[str, Terms]:
        """The terms that the rows of ``lock_terms`` or ``read_terms`` stand for."""
        found = {}
        for row in rows:
            terms = self.remembered(row)
            if terms is None:
                return await self._read(connection, rows)
            found[row["account_id"]] = terms
        return found

    async def _read(self, connection: "Connection", rows: "Sequence[asyncpg.Record]") -> dict[str, Terms]:
        changed = {row["account_id"]: row["limits_version"] for row in rows if self._is_behind(row)}
        # Taken out before anything else is awaited: to make room, the cache forgets accounts at any such moment.
        additions = {row["account_id"]: self._additions.get(row["account_id"], _NO_ADDITIONS) for row in rows}
        if changed:
            additions |= await self._load(connection, changed)
        found = {}
        for row in rows:
            plan = await self._plan(connection, row["plan_id"], row["plan_version"])
            found[row["account_id"]] = self._terms(row, plan, additions[row["account_id"]])
        return found

    def remembered(self, row: "asyncpg.Record") -> Terms | None:
        """The same for one row, of what is remembered alone; None where something would have to be read."""
        if self._is_behind(row):
            return None
        plan = self._remembered_plan(row["plan_id"], row["plan_version"])
        return None if plan is None else self._terms(row, plan, self._additions.get(row["account_id"], _NO_ADDITIONS))

    def _terms(self, row: "asyncpg.Record", known: _KnownPlan, added: _Additions) -> Terms:
        if added is not _NO_ADDITIONS:
            return self._make(row, known, added)
        key = (row["plan_id"], row["time_zone"], row["billing_anchor"])
        shared = self._shared.get(key)
        if shared is None or shared[0] is not known:
            if len(self._shared) >= self._ENTRIES_MAX:
                self._shared.clear()
            shared = self._shared[key] = (known, self._make(row, known, added))
        return shared[1]

    def _make(self, row: "asyncpg.Record", known: _KnownPlan, added: _Additions) -> Terms:
        plan, selected = known
        return Terms(
            plan_id=row["plan_id"],
            plan=plan,
            calendar=self._calendar(row["time_zone"], row["billing_anchor"]),
            plan_version=None if plan is None else plan.version,
            overrides=added.overrides,
            grants=added.grants,
            selected=selected,
        )

    def _calendar(self, time_zone: str, billing_anchor: date) -> Calendar:
        known = self._calendars.get((time_zone, billing_anchor))
        if known is None:
            if len(self._calendars) >= self._ENTRIES_MAX:
                self._calendars.clear()
            known = self._calendars[time_zone, billing_anchor] = Calendar(time_zone, billing_anchor)
        return known

    def _is_behind(self, row: "asyncpg.Record") -> bool:
        version: int = row["limits_version"]
        known = self._additions.get(row["account_id"], _NO_ADDITIONS).version
        return version != known if self._is_exact else version > known

    async def _load(self, connection: "Connection", versions: dict[str, int]) -> dict[str, _Additions]:
        overrides = await load_overrides(connection, versions)
        grants = await load_grants(connection, versions)
        if len(self._additions) >= self._ENTRIES_MAX:
            self._additions.clear()
        loaded = {
            account_id: _Additions(version, overrides.get(account_id, ()), grants.get(account_id, ()))
            for account_id, version in versions.items()
        }
        self._additions |= loaded
        return loaded

    async def _plan(self, connection: "Connection", plan_id: str | None, version: int | None) -> _KnownPlan:
        """The plan of that version, or a newer one that came meanwhile; None where there is no plan by that id."""
        remembered = self._remembered_plan(plan_id, version)
        if remembered is not None:
            return remembered
        assert plan_id is not None
        plan = await find_plan(connection, plan_id)
        if plan is None:
            return _NO_PLAN
        if len(self._plans) >= self._ENTRIES_MAX:
            self._plans.clear()
        self._plans[plan_id] = read = _KnownPlan(plan, {})
        return read

    def _remembered_plan(self, plan_id: str | None, version: int | None) -> _KnownPlan | None:
        """A version of None is to be asked about again: the plan may have come after the statement that looked for it
        began."""
        if plan_id is None:
            return _NO_PLAN
        cached = self._plans.get(plan_id)
        if cached is None or cached.plan is None or version is None:
            return None
        known = cached.plan.version
        is_good = known == version if self._is_exact else known >= version
        return cached if is_good else None


class Locked(NamedTuple):
    """Locked accounts: the terms of each, the database's time once all were locked, what is known of the checks'
    operations, and the rows of the counters that their callers touch (see store.counters)."""

    terms: dict[str, Terms]
    now: datetime
    known: dict[OperationKey, Known]
    counters: "list[asyncpg.Record]"


async def lock_terms(
    connection: "Connection", account_ids: Collection[str], cache: TermsCache, default_plan_id: str | None
) -> tuple[dict[str, Terms], datetime]:
    """Locks accounts (unique ids, at least one) until the transaction ends; answers their terms, and the database's
    time once all were locked. Where one was never registered, its terms are the default plan's; where it was never
    seen before, it gets a row first.
    """
    wanted = sorted(account_ids)
    row = await _lock(connection, wanted, SQL["lock"], wanted, default_plan_id)
    return await cache.terms(connection, row["accounts"]), row["locked_at"]


async def lock_for_checks(
    connection: "Connection",
    checks: Sequence[LimitCheck],
    callers: Callers,
    cache: TermsCache,
    default_plan_id: str | None,
) -> Locked:
    """Locks the accounts of checks as ``lock_terms`` does, and reads all that deciding on them needs, in one round
    trip. Nothing that it answers is older than the locks."""
    wanted = sorted({check.account_id for check in checks})
    operations = array_literals((check.account_id, check.operation_id) for check in checks)
    columns = array_literals(callers.distinct)
    row = await _lock(
        connection, wanted, SQL["lock_for_checks"], array_literal(wanted), default_plan_id, *operations, *columns
    )
    known = {OperationKey(one["account_id"], one["operation_id"]): to_known(one) for one in row["known"]}
    return Locked(await cache.terms(connection, row["accounts"]), row["locked_at"], known, row["counters"])


async def _lock(connection: "Connection", wanted: list[str], query: str, *arguments: object) -> "asyncpg.Record":
    [row] = await connection.fetch(query, *arguments)
    if len(row["accounts"]) < len(wanted):
        await add_seen(connection, wanted)
        [row] = await connection.fetch(query, *arguments)
    return row


async def read_terms(
    connection: "Connection", account_ids: Collection[str], cache: TermsCache, default_plan_id: str | None
) -> dict[str, Terms]:
    """The same without a lock: to show, not to decide on."""
    return await cache.terms(connection, await connection.fetch(SQL["read"], list(account_ids), default_plan_id))
