"""An import: plans first, so that limits hold from then on; then log rows in batches; then what summaries say besides.

Everything that is written has an id that follows from what it says, and is looked for before it is written: broken off
anywhere, the same command goes on, and run again, it adds nothing.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from contracts.problems import Problem, ProblemError
from ledger_service.adjusting import Asked, adjust_all
from ledger_service.alwrity.adjustments import for_aggregated, for_opening, for_recorded_before
from ledger_service.alwrity.reading import Material, Progress, Reader, Taken
from ledger_service.alwrity.report import Report
from ledger_service.alwrity.terms_import import TermsImport
from ledger_service.domain.alwrity.standing import NOTHING, Figures, Opening, Period, opening_of
from ledger_service.domain.alwrity.usage import Usage, account_of
from ledger_service.domain.alwrity.wrapping import Aggregate, aggregate_of, recorded_before, stands_in
from ledger_service.domain.batches import Receipt
from ledger_service.recording import Batch, record
from ledger_service.store.alwrity import (
    find_known,
    read_aggregates,
    read_details,
    read_opened,
    read_recorded,
    read_totals,
    refuse_archived_imports,
)
from ledger_service.store.pool import Pool

BATCH_ROWS: Final = 1000
CONFLICTS_SHOWN_MAX: Final = 100


@dataclass(frozen=True)
class Options:
    """``usage_only``: no plans, accounts and prices. ``skip_broken``: rows that cannot be taken are left out."""

    dry_run: bool = False
    usage_only: bool = False
    skip_broken: bool = False
    account_prefix: str = ""
    plan_prefix: str = "alwrity-"


async def import_files(
    pool: Pool, paths: Sequence[Path], options: Options, now: datetime, progress: Progress
) -> Report:
    """Reads all files, and only if every row can be taken writes any of it.

    Raises ImportRefusedError: then nothing was written. ProblemError (period_archived) where what came from earlier
    imports is in archives, at the beginning too. Errors of the database: then the same again goes on.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-alwrity-") as folder:
        reader = Reader(Path(folder), options.account_prefix, now, progress)
        material = reader.look_through(reader.open_all(paths), skip_broken=options.skip_broken)
        return await _Import(pool, reader, material, options, progress).run()


class _Import:
    def __init__(self, pool: Pool, reader: Reader, material: Material, options: Options, progress: Progress) -> None:
        self._pool, self._reader, self._material, self._options = pool, reader, material, options
        self._progress = progress
        self._periods: dict[tuple[str, str], Period] = {}
        #: Of each user whose rows were wrapped.
        self._aggregates: dict[str, list[Aggregate]] = {}
        #: Aggregated rows that are new.
        self._fresh: set[UUID] = set()
        #: What is new, by the month in which it happened; for a dry run, in which the ledger does not have it.
        self._added: dict[tuple[str, str], Figures] = {}
        self._report = Report(options.dry_run, [str(source.path) for source in material.sources])

    async def run(self) -> Report:
        report, material = self._report, self._material
        report.rows, report.broken, report.notices = material.rows, material.broken_count, material.notices
        report.alerts = material.alerts
        accounts = [account_of(user_id, self._options.account_prefix) for user_id in sorted(material.users)]
        async with self._pool.acquire() as connection:
            await refuse_archived_imports(connection, accounts)
        if not self._options.usage_only:
            async with self._pool.acquire() as connection:
                options = self._options
                terms = TermsImport(
                    connection, material, options.plan_prefix, options.account_prefix, dry_run=options.dry_run
                )
                report.terms = await terms.run()
        await self._import_rows()
        await self._balance()
        report.periods = [one for _, one in sorted(self._periods.items())]
        return report

    # --- log rows

    async def _import_rows(self) -> None:
        done, batch, user = 0, list[Taken](), ""
        events: set[UUID] = set()
        operations: set[UUID] = set()
        rivals: set[UUID] = set()
        for taken in self._reader.rows(self._material.sources):
            usage = taken.usage
            done += 1
            if usage.user_id != user:
                user, events, operations = usage.user_id, set(), set()
                await self._find_aggregates(usage)
            if usage.event_id in events:
                self._report.repeated += 1
                continue
            events.add(usage.event_id)
            if usage.operation_id in operations:
                rivals.add(usage.event_id)
            operations.add(usage.operation_id)
            period = self._period(usage.user_id, usage.period)
            period.aggregated += usage.is_aggregated
            period.rounded += usage.is_rounded
            batch.append(taken)
            if len(batch) == BATCH_ROWS:
                await self._record(batch, rivals)
                self._progress("importing", done, self._material.rows)
                batch, rivals = [], set()
        if batch:
            await self._record(batch, rivals)

    async def _find_aggregates(self, usage: Usage) -> None:
        """Those of the user whose rows come now: in the files, and from earlier imports."""
        in_files = self._material.aggregated.get(usage.user_id, {}).values()
        found = [aggregate_of(one, self._material.places[one.event_id]) for one in in_files]
        async with self._pool.acquire() as connection:
            earlier = await read_aggregates(connection, usage.account_id)
        there = {one.event_id for one in found}
        found += [one for one in earlier if one.event_id not in there]
        if found:
            self._aggregates[usage.user_id] = found

    def _period(self, user_id: str, period: str) -> Period:
        found = self._periods.get((user_id, period))
        if found is None:
            account_id = account_of(user_id, self._options.account_prefix)
            found = self._periods[user_id, period] = Period(user_id, account_id, period)
            found.broken = self._material.broken_rows[user_id, period]
        return found

    async def _record(self, batch: Sequence[Taken], rivals: set[UUID]) -> None:
        keys = [(one.usage.account_id, one.usage.event_id, one.usage.operation_id) for one in batch]
        async with self._pool.acquire() as connection:
            known, finished = await find_known(connection, keys)
        new: list[Taken] = []
        for one in batch:
            period = self._period(one.usage.user_id, one.usage.period)
            if one.usage.event_id not in known and self._is_wrapped(one):
                self._report.wrapped += 1
                period.wrapped += 1
                continue
            period.log = period.log.plus(_figures(one.usage))
            if one.usage.event_id in known:
                self._count_known(one.usage)
            elif one.usage.event_id in finished or one.usage.event_id in rivals:
                self._count_conflict(one)
            else:
                new.append(one)
        if new and not self._options.dry_run:
            recorded = await record(self._pool, Batch([one.submission for one in new]))
            receipts = recorded.receipts
        else:
            receipts = [Receipt.ACCEPTED] * len(new)
        for one, receipt in zip(new, receipts, strict=True):
            self._count(one, receipt)
        await self._count_aggregated([one.usage for one in batch if one.usage.is_aggregated])

    def _count(self, one: Taken, receipt: Receipt | Problem) -> None:
        usage = one.usage
        period = self._period(usage.user_id, usage.period)
        if receipt is Receipt.ACCEPTED:
            self._report.new += 1
            if usage.is_aggregated:
                self._fresh.add(usage.event_id)
            period.new = period.new.plus(_figures(usage))
            key = usage.user_id, usage.month
            self._added[key] = self._added.get(key, NOTHING).plus(_figures(usage))
        elif receipt is Receipt.DUPLICATE:
            self._count_known(usage)
        elif isinstance(receipt, Problem):
            self._report.refused += 1
            period.refused = period.refused.plus(_figures(usage))
            self._report.conflict_lines.append(f"row {usage.row_id} of {usage.user_id}: refused: {receipt.detail}")
        else:
            self._count_conflict(one)

    def _count_known(self, usage: Usage) -> None:
        self._report.known += 1
        period = self._period(usage.user_id, usage.period)
        period.known = period.known.plus(_figures(usage))

    def _count_conflict(self, one: Taken) -> None:
        usage = one.usage
        self._report.conflicts += 1
        period = self._period(usage.user_id, usage.period)
        period.conflicts = period.conflicts.plus(_figures(usage))
        if len(self._report.conflict_lines) < CONFLICTS_SHOWN_MAX:
            path = self._material.sources[one.source].path
            self._report.conflict_lines.append(
                f"row {usage.row_id} of {usage.user_id} ({usage.occurred_at:%Y-%m-%d %H:%M:%S}) in {path} has other "
                f"content than operation {usage.operation_id} in the ledger: not counted"
            )

    def _is_wrapped(self, one: Taken) -> bool:
        aggregates = self._aggregates.get(one.usage.user_id)
        if aggregates is None or one.usage.is_aggregated:
            return False
        return stands_in(one.usage, self._material.places.get(one.usage.event_id, 1 << one.source), aggregates)

    async def _count_aggregated(self, usages: Sequence[Usage]) -> None:
        """What aggregated rows of the batch count beyond one call, and what the ledger had of them one by one."""
        by_account: dict[str, list[Asked]] = {}
        for usage in usages:
            asked = by_account.setdefault(usage.account_id, [])
            extra = for_aggregated(usage)
            if extra is not None:
                asked.append(extra)
            aggregate = aggregate_of(usage, self._material.places[usage.event_id])
            async with self._pool.acquire() as connection:
                details = await read_details(connection, usage.account_id, aggregate)
            before = recorded_before(aggregate, details, self._material.places, self._aggregates[usage.user_id])
            if before.rows:
                asked.append(for_recorded_before(usage, before))
                if usage.event_id in self._fresh:
                    period = self._period(usage.user_id, usage.period)
                    period.unwrapped = period.unwrapped.plus(before)
                    self._added[usage.user_id, usage.month] = self._added[usage.user_id, usage.month].minus(before)
        await self._adjust(by_account)

    async def _adjust(self, by_account: dict[str, list[Asked]]) -> None:
        if not by_account:
            return
        keys = [
            (account_id, one.adjustment.adjustment_id, one.adjustment.adjustment_id)
            for account_id, some in by_account.items()
            for one in some
        ]
        async with self._pool.acquire() as connection:
            known, _ = await find_known(connection, keys)
            for account_id, some in sorted(by_account.items()):
                new = [one for one in some if one.adjustment.adjustment_id not in known]
                if not new:
                    continue
                try:
                    if not self._options.dry_run:
                        await adjust_all(connection, account_id, new)
                except ProblemError as error:
                    self._report.conflict_lines.append(f"account {account_id}: {error.problem.detail}")
                else:
                    self._report.adjustments += len(new)

    # --- summaries

    async def _balance(self) -> None:
        for user_id, period in self._material.summaries:
            self._period(user_id, period).summary = self._material.summaries[user_id, period]
        for renewal in self._material.renewals:
            key = renewal.user_id, f"{renewal.at:%Y-%m}" if renewal.at else ""
            if key in self._periods:
                self._periods[key].renewals.append(renewal)
        users = sorted({user_id for user_id, _ in self._periods})
        for done, user_id in enumerate(users):
            if done % 50 == 0:
                self._progress("balancing", done, len(users))
            await self._balance_user(user_id)

    async def _balance_user(self, user_id: str) -> None:
        account_id = account_of(user_id, self._options.account_prefix)
        async with self._pool.acquire() as connection:
            imported, elsewhere = await read_recorded(connection, account_id)
            opened = await read_opened(connection, account_id)
            await refuse_archived_imports(connection, [account_id])  # meanwhile
        wanted: list[Opening] = []
        own = [one for (user, _), one in self._periods.items() if user == user_id]
        for one in own:
            one.imported = imported.get(one.period, NOTHING)
            if self._options.dry_run:
                one.imported = one.imported.plus(one.new).minus(replace(one.unwrapped, rows=0))
            one.elsewhere = elsewhere.get(one.period, NOTHING)
            one.opened = opened.get(one.period, NOTHING)
            if one.summary is not None:
                one.opening = opening_of(one.summary, one.imported, one.opened, account_id)
            if one.opening is not None:
                one.opened = one.opened.plus(Figures(1, one.opening.calls, 0, one.opening.cost_nanos))
                wanted.append(one.opening)
        await self._adjust({account_id: [for_opening(account_id, one) for one in wanted]} if wanted else {})
        async with self._pool.acquire() as connection:
            totals = await read_totals(connection, account_id)
        for one in own:
            one.ledger = totals.get(one.period, NOTHING)
            if self._options.dry_run:
                more = Figures(0, one.opening.calls, 0, one.opening.cost_nanos) if one.opening else NOTHING
                one.ledger = one.ledger.plus(self._added.get((user_id, one.period), NOTHING)).plus(more)


def _figures(usage: Usage) -> Figures:
    return Figures(1, usage.calls + usage.failures, usage.failures, usage.cost_nanos, usage.tokens)
