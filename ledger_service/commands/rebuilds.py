"""`ledger verify` and `ledger rebuild`: projections beside what the log says, and brought to it."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

import orjson
import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts.exit_codes import ExitCode
from ledger_service import rebuilding
from ledger_service.commands.database import messages, output, own_settings, stop, with_database
from ledger_service.commands.differences import describe, difference_table
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.commands.seals import seals_as_json, verify_and_show
from ledger_service.disk_space import TooLittleSpaceError, check_space
from ledger_service.projections import PROJECTIONS
from ledger_service.seal_verification import SealReport
from ledger_service.store.pool import Connection
from ledger_service.store.tables import SQL, read_tables
from ledger_service.verification import JOBS_DEFAULT, Difference, Scope, Verification

SHOWN_MAX: Final = 50
DESCRIBED_AT_ONCE: Final = 500
_KINDS: Final = ("missing", "invented", "changed")
#: So much of the log read is all of it, as far as bars go: reports come every ten thousand positions.
_MOST: Final = 0.98

Account = Annotated[str | None, typer.Option("--account", "--account-id", help="Of one account; default: all.")]


def _projection_names(incomplete: str) -> list[str]:
    return [one.name for one in PROJECTIONS if one.name.startswith(incomplete)]


Projections = Annotated[
    list[str] | None,
    typer.Option(
        "--projection",
        help="Of this one only; may be given again. Default: all.",
        autocompletion=_projection_names,
    ),
]
Seals = Annotated[
    bool, typer.Option("--seals", help="First, whether the log is what was sealed; see `ledger seals verify`.")
]
Jobs = Annotated[int, typer.Option(min=1, max=32, help="How many connections work on it: one a core.")]


def verify(
    account_id: Account = None,
    projection: Projections = None,
    seals: Seals = False,
    as_json: AsJson = False,
    jobs: Jobs = JOBS_DEFAULT,
) -> None:
    """Compares every projection with what the log says, row by row, and changes nothing.

    Nobody waits for it, and it may run on a copy of the database that follows another. Exit 0 where all agree, 1 where
    there are differences, or the database cannot be had; 2 for wrong options.
    """
    scope = _scope(account_id, projection)
    report = verify_and_show(None, None, stream=True, processes=jobs, quiet=as_json) if seals else None
    sealed = report is None or report.proves
    begin = time.monotonic()
    counts = with_database(lambda connection: _verify(connection, scope, jobs, as_json, report), whole_tables=True)
    elapsed = time.monotonic() - begin
    if not as_json:
        _say_what_is_trusted(scope)
    total = sum(counts.values())
    if not total:
        messages().print(f"no differences in {len(scope.projections)} projections, {elapsed:.1f} s", style="green")
        if not sealed:
            raise typer.Exit(ExitCode.FAILED)
        return
    by_projection = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
    messages().print(f"{total:,} rows are not what the log says: {by_projection} ({elapsed:.1f} s)", style="red")
    messages().print("`ledger rebuild` brings them to what the log says; --json names all of them.")
    raise typer.Exit(ExitCode.FAILED)


async def _verify(
    connection: Connection, scope: Scope, jobs: int, as_json: bool, seals: SealReport | None
) -> Counter[str]:
    size = await _look_around(connection, scope)
    counts: Counter[str] = Counter()
    first: list[Difference] = []
    tables = await read_tables(connection, (one.name for one in PROJECTIONS))
    with _screen(size) as screen:
        verification = Verification(own_settings().database_url, jobs, screen.at)
        if as_json:
            await _write_json(connection, scope, _counted(verification, scope, counts), counts, seals)
            return counts
        async for difference in _counted(verification, scope, counts):
            if len(first) < SHOWN_MAX:
                first.append(difference)
    if first:
        output().print(difference_table(await describe(connection, tables, first)))
    if sum(counts.values()) > len(first):
        messages().print(f"and {sum(counts.values()) - len(first):,} more rows")
    return counts


async def _counted(verification: Verification, scope: Scope, counts: Counter[str]) -> AsyncIterator[Difference]:
    async for difference in verification.differences(scope):
        counts[difference.projection] += 1
        yield difference


async def _write_json(
    connection: Connection,
    scope: Scope,
    differences: AsyncIterator[Difference],
    counts: Counter[str],
    seals: SealReport | None,
) -> None:
    """One object, written as it comes: there may be as many differences as rows."""
    tables = await read_tables(connection, (one.name for one in PROJECTIONS))
    file, begun = output().file, False

    async def write(some: Sequence[Difference]) -> None:
        nonlocal begun
        for one in await describe(connection, tables, some):
            file.write(",\n" if begun else "\n")
            file.write(orjson.dumps(one.to_json()).decode())
            begun = True

    file.write('{"differences": [')
    waiting: list[Difference] = []
    async for difference in differences:
        waiting.append(difference)
        if len(waiting) == DESCRIBED_AT_ONCE:
            await write(waiting)
            waiting = []
    await write(waiting)
    rest = {
        "rows": dict(sorted(counts.items())),
        "projections": list(scope.projections),
        "trusted": _trusted(scope),
        "seals": None if seals is None else seals_as_json(seals),
    }
    file.write(f"],\n{orjson.dumps(rest).decode()[1:]}\n")


def rebuild(
    account_id: Account = None, projection: Projections = None, as_json: AsJson = False, jobs: Jobs = JOBS_DEFAULT
) -> None:
    """Brings every projection to what the log says, while ingest and limit checks run.

    Compares as `verify` does, then replaces the rows that differ, under their accounts' locks, and compares those
    again. Run again, it finds nothing to do; ended half-way, it leaves each account as it was or as it should be. Exit
    0 where all agree at the end, else 1; 2 for wrong options.
    """
    scope = _scope(account_id, projection)
    begin = time.monotonic()
    try:
        done = with_database(lambda connection: _rebuild(connection, scope, jobs), whole_tables=True)
    except rebuilding.RebuildRefusedError as error:
        raise stop(str(error), "Nothing was changed.") from None
    except rebuilding.RebuildUnfinishedError as error:
        raise stop(str(error)) from None
    elapsed = time.monotonic() - begin
    if as_json:
        write_json(_as_json(done, elapsed))
    else:
        _show(scope, done, elapsed)
    if done.left:
        raise typer.Exit(ExitCode.FAILED)


async def _rebuild(connection: Connection, scope: Scope, jobs: int) -> rebuilding.Rebuilt:
    size = await _look_around(connection, scope)
    with _screen(size) as screen:
        verification = Verification(own_settings().database_url, jobs, screen.at)
        return await rebuilding.rebuild(verification, scope, screen)


def _as_json(done: rebuilding.Rebuilt, elapsed: float) -> dict[str, object]:
    replaced: dict[str, dict[str, int]] = {}
    for (name, kind), rows in sorted(done.replaced.items()):
        replaced.setdefault(name, {})[kind] = rows
    return {
        "replaced": replaced,
        "left": dict(done.left),
        "rounds": done.rounds,
        "longest_pause_seconds": max(done.pauses_seconds, default=0.0),
        "pauses_seconds": sum(done.pauses_seconds),
        "elapsed_seconds": elapsed,
    }


def _show(scope: Scope, done: rebuilding.Rebuilt, elapsed: float) -> None:
    replaced = {name for (name, _), rows in done.replaced.items() if rows}
    if replaced:
        table = Table("projection")
        for kind in _KINDS:
            table.add_column(kind, justify="right")
        for one in PROJECTIONS:
            if one.name in replaced:
                table.add_row(one.name, *(f"{done.replaced[one.name, kind]:,}" for kind in _KINDS))
        output().print(table)
    _say_what_is_trusted(scope)
    if done.left:
        left = ", ".join(f"{name} {rows:,}" for name, rows in sorted(done.left.items()))
        messages().print(f"after {done.rounds} rounds these rows still differ: {left}", style="red")
        messages().print("Something changes them behind the log's back; `ledger verify` names them.")
        return
    if not replaced:
        messages().print(f"no differences in {len(scope.projections)} projections, {elapsed:.1f} s", style="green")
        return
    messages().print(
        f"replaced {done.replaced.total():,} rows in {len(done.pauses_seconds)} transactions, the longest "
        f"{max(done.pauses_seconds) * 1000:,.0f} ms; compared again, all agree ({elapsed:.1f} s)",
        style="green",
    )
    if any(one.remembered and one.name in replaced for one in PROJECTIONS):
        messages().print("Ledger processes remember plans: start those that run again.", style="yellow")


# --- what both share


def _scope(account_id: str | None, names: list[str] | None) -> Scope:
    known = [one.name for one in PROJECTIONS]
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"there is no projection {name}; known are {', '.join(known)}")
    if account_id is None:
        return Scope(None, tuple(names or known))
    of_accounts = [one.name for one in PROJECTIONS if one.by_account]
    for name in names or ():
        if name not in of_accounts:
            raise typer.BadParameter(f"{name} is about no account: leave out --account")
    return Scope((account_id,), tuple(names or of_accounts))


@dataclass(frozen=True)
class _Size:
    events: int
    last_position: int


async def _look_around(connection: Connection, scope: Scope) -> _Size:
    """How much there is to read. Stops where there is nothing, or too little room."""
    if scope.accounts is not None:
        if not await connection.fetchval(SQL["knows_account"], scope.accounts[0]):
            raise stop(f"the ledger has nothing of account {scope.accounts[0]}")
    else:
        try:
            await check_space(connection)
        except TooLittleSpaceError as error:
            raise stop(str(error), "Make room there, or look at single accounts with --account.") from None
    row = await connection.fetchrow(SQL["size"])
    assert row is not None
    return _Size(row["events"], row["last_position"])


def _trusted(scope: Scope) -> dict[str, dict[str, str]]:
    return {one.name: dict(one.trusted) for one in PROJECTIONS if one.trusted and one.name in scope.projections}


def _say_what_is_trusted(scope: Scope) -> None:
    for name, what in _trusted(scope).items():
        for part, why in what.items():
            messages().print(f"not compared: {name}, {part}: {why}", style="dim")


class _Screen(rebuilding.Progress):
    """Bars: how much of the log was read, how many rows were replaced."""

    def __init__(self, bars: Progress, size: _Size) -> None:
        self._bars = bars
        self._size = size
        self._begin = time.monotonic()
        self._task = bars.add_task("reading the log", total=None, rate="")
        self._replacing: TaskID | None = None

    def at(self, position: int) -> None:
        """The log was read up to there."""
        done = min(position / max(self._size.last_position, 1), 1)
        per_second = done * self._size.events / max(time.monotonic() - self._begin, 0.001)
        self._bars.update(self._task, completed=done, total=1, rate=f"{per_second:,.0f} events/s")
        if done > _MOST:
            self._bars.update(self._task, description="log read, comparing")

    def comparing(self, round_number: int, accounts: int | None) -> None:
        if round_number == 1:
            return
        self._bars.update(self._task, completed=1, total=1)
        what = "all accounts" if accounts is None else f"{accounts:,} accounts"
        self._begin, self._replacing = time.monotonic(), None
        self._task = self._bars.add_task(f"comparing {what} again", total=None, rate="")

    def replacing(self, done: int, of: int) -> None:
        if self._replacing is None:
            self._bars.update(self._task, completed=1, total=1)
            self._begin = time.monotonic()
            self._replacing = self._bars.add_task("replacing rows", total=of, rate="")
        per_second = done / max(time.monotonic() - self._begin, 0.001)
        self._bars.update(self._replacing, completed=done, rate=f"{per_second:,.0f} rows/s")


@contextmanager
def _screen(size: _Size) -> Iterator[_Screen]:
    console = messages()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Screen(bars, size)
