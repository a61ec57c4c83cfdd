"""Rows that are not what the log says, replaced by what it says, while ingest and limit checks run.

Rounds: all is compared in a snapshot, which locks nobody; then the rows that differ are replaced, under the locks of
their accounts and in one transaction where there are not too many; then what was touched is compared again. A row that
changed meanwhile is left for the next round, and so is what was derived from a wrong row before it was put right.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncpg

from ledger_service.differences import DifferenceStore, difference_store
from ledger_service.projections import PROJECTIONS
from ledger_service.projections.projection import Projection
from ledger_service.store.accounts import lock_known_accounts
from ledger_service.store.tables import SQL, Replacement, read_tables, replacement
from ledger_service.verification import Difference, Scope, Verification, connected

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

#: Rows that are replaced in one transaction, unless one account alone has more: about half a second under its lock.
SWAP_ROWS_MAX: Final = 5_000
#: Between two transactions of one round, so that those who waited get their turn.
BREATH_SECONDS: Final = 0.05
LOCK_MILLISECONDS: Final = 500
LOCK_ATTEMPTS_MAX: Final = 40
ROUNDS_MAX: Final = 6
#: More accounts than that are compared again together with all others: that reads the log in its order.
ACCOUNTS_AGAIN_MAX: Final = 2_000

_LOST: Final = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)


class RebuildRefusedError(Exception):
    """A rebuild cannot be done here and now; nothing was changed."""


class RebuildUnfinishedError(Exception):
    """Some of it could not be done; what was done stays, and what was not is as it was."""


@dataclass
class Rebuilt:
    """What a rebuild did."""

    #: Rows that were replaced, by projection and what was wrong: ``missing``, ``invented``, ``changed``.
    replaced: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Rows that differ still, by projection.
    left: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    #: How long each transaction kept its accounts locked.
    pauses_seconds: list[float] = field(default_factory=list)


class Progress:
    """What a rebuild tells of itself; to be overridden by whoever listens."""

    def comparing(self, round_number: int, accounts: int | None) -> None:
        """A round begins: of so many accounts, or of all."""

    def found(self, difference: Difference) -> None:
        """In the first round."""

    def replacing(self, done: int, of: int) -> None:
        """So many of the round's differing rows were dealt with."""


async def rebuild(verification: Verification, scope: Scope, progress: Progress) -> Rebuilt:
    """Brings the projections of the scope to what the log says. Run again, it finds nothing to do.

    Raises RebuildRefusedError where another one runs, or the server is a copy; RebuildUnfinishedError where accounts
    stay locked by somebody else. What asyncpg raises leaves all as it was before the transaction that it broke.
    """
    async with _alone(verification.database_url) as connection:
        done, looking = Rebuilt(), scope
        for round_number in range(1, ROUNDS_MAX + 1):
            done.rounds = round_number
            wrong: set[str] = set()
            with difference_store() as store:
                progress.comparing(round_number, None if looking.accounts is None else len(looking.accounts))
                async for difference in verification.differences(looking):
                    store.add(difference)
                    wrong.add(difference.projection)
                    if round_number == 1:
                        progress.found(difference)
                accounts = list(store.accounts())
                if not accounts:
                    return done
                # What sums up wrong rows was compared with those: it is its turn once they are right.
                later = {one.name for one in PROJECTIONS if one.sums_up in wrong}
                await _Swap(connection, done, progress, later).replace(store, accounts)
                looking = _again(scope, accounts, wrong | later)
        async for difference in verification.differences(looking):
            done.left[difference.projection] += 1
        return done


def _again(scope: Scope, touched: Sequence[tuple[str, int]], projections: Collection[str]) -> Scope:
    """What is to be compared once more. What was derived from a wrong row is of the same account."""
    accounts = tuple(name for name, _ in touched if name)
    if len(accounts) > ACCOUNTS_AGAIN_MAX:
        return scope
    by_account = [one.name for one in scope.chosen(by_account=True)]
    return Scope(
        accounts, (*by_account, *(one.name for one in scope.chosen(by_account=False) if one.name in projections))
    )


@asynccontextmanager
async def _alone(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    async with connected(database_url, "rebuild") as connection:
        if await connection.fetchval(SQL["is_copy"]):
            raise RebuildRefusedError("this server is a copy that follows another: rebuild there, it follows")
        if not await connection.fetchval(SQL["lock_rebuild"]):
            raise RebuildRefusedError("another rebuild of this database is running: wait for it, or end it")
        yield connection


def kind_of(difference: Difference) -> str:
    """What is wrong with a row."""
    if difference.live is None:
        return "missing"
    return "invented" if difference.wanted is None else "changed"


class _Swap:
    """Replaces the rows of one round."""

    def __init__(self, connection: "Connection", done: Rebuilt, progress: Progress, later: Collection[str]) -> None:
        self._connection = connection
        self._done = done
        self._progress = progress
        self._later = later
        self._replacements: dict[str, Replacement] = {}

    async def replace(self, store: DifferenceStore, accounts: Sequence[tuple[str, int]]) -> None:
        tables = await read_tables(self._connection, (one.name for one in PROJECTIONS))
        self._replacements = {one.name: replacement(tables[one.name], one.sums, one.untold) for one in PROJECTIONS}
        total, dealt_with = sum(number for _, number in accounts), 0
        for portion in _portions(accounts):
            differences = [difference for name in portion for difference in store.of(name)]
            await self._one_transaction([one for one in differences if one.projection not in self._later])
            dealt_with += len(differences)
            self._progress.replacing(dealt_with, total)
            await asyncio.sleep(BREATH_SECONDS)

    async def _one_transaction(self, differences: Sequence[Difference]) -> None:
        accounts = {one.account_id for one in differences} - {""}
        for attempt in range(1, LOCK_ATTEMPTS_MAX + 1):
            try:
                async with self._connection.transaction():
                    begin = time.perf_counter()
                    await self._connection.execute(f"set local lock_timeout = {LOCK_MILLISECONDS}")
                    await self._connection.execute("set local enable_nestloop = on")
                    replaced = await self._replace_locked(differences, accounts)
                self._done.pauses_seconds.append(time.perf_counter() - begin)
                self._done.replaced += replaced
                return
            except _LOST:
                if attempt == LOCK_ATTEMPTS_MAX:
                    raise RebuildUnfinishedError(
                        f"{', '.join(sorted(accounts)[:3]) or 'plans, prices or sources'} stayed locked by somebody "
                        "else; end that, and run it again"
                    ) from None
                await asyncio.sleep(BREATH_SECONDS * min(attempt, 10))

    async def _replace_locked(self, differences: Sequence[Difference], accounts: set[str]) -> Counter[tuple[str, str]]:
        replaced: Counter[tuple[str, str]] = Counter()
        locked = False
        # Ingest writes the projections without the lock first, and so takes their rows first.
        for projection in PROJECTIONS:
            mine = [one for one in differences if one.projection == projection.name]
            if projection.under_lock and not locked:
                locked = True
                if accounts:
                    await lock_known_accounts(self._connection, accounts)
            if mine:
                replaced += await self._replace_rows(projection, mine)
                if projection.replaced_sql is not None:
                    arguments = [sorted(accounts)] if projection.by_account else []
                    await self._connection.execute(projection.replaced_sql, *arguments)
        return replaced

    async def _replace_rows(
        self, projection: Projection, differences: Sequence[Difference]
    ) -> Counter[tuple[str, str]]:
        statements = self._replacements[projection.name]
        by_kind: dict[str, list[Difference]] = {"missing": [], "invented": [], "changed": []}
        for one in differences:
            by_kind[kind_of(one)].append(one)
        replaced: Counter[tuple[str, str]] = Counter()
        if invented := by_kind["invented"]:
            gone = await self._rows(statements.delete, _live(invented))
            if statements.take_off is not None and gone < len(invented):
                gone += await self._rows(statements.take_off, _live(invented))
            replaced[projection.name, "invented"] += gone
        if changed := by_kind["changed"]:
            replaced[projection.name, "changed"] += await self._rows(
                statements.update, _live(changed), _wanted(changed)
            )
        if missing := by_kind["missing"]:
            replaced[projection.name, "missing"] += await self._rows(statements.insert, _wanted(missing))
        return replaced

    async def _rows(self, statement: str, *arguments: list[str | None]) -> int:
        """Runs it; how many rows it changed."""
        status: str = await self._connection.execute(statement, *arguments)
        return int(status.rpartition(" ")[2])


def _portions(accounts: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Whole accounts, together at most SWAP_ROWS_MAX rows, or one account with more."""
    portion: list[str] = []
    rows = 0
    for name, number in accounts:
        if portion and rows + number > SWAP_ROWS_MAX:
            yield portion
            portion, rows = [], 0
        portion.append(name)
        rows += number
    if portion:
        yield portion


def _live(differences: Iterable[Difference]) -> list[str | None]:
    return [one.live for one in differences]


def _wanted(differences: Iterable[Difference]) -> list[str | None]:
    return [one.wanted for one in differences]
