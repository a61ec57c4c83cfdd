"""`ledger close-gap`: after a restore, what the stream still had, what came back, and what could not be closed."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import asyncpg
import nats.errors
import orjson
import structlog
import typer
from nats.aio.client import Client
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from contracts.exit_codes import ExitCode
from contracts.subjects import STREAM
from ledger_service.commands.database import messages, moment, output, own_settings, shown, stop
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.config import Settings
from ledger_service.domain.checkpoints import SignedCheckpoint
from ledger_service.seal_keys import SealKeyError, find_signing_key, trusted_keys
from ledger_service.seal_publishing import CheckpointFile, CheckpointStream
from ledger_service.sealing import SealChain, SealsDivergedError
from ledger_service.store import seals as seal_store
from ledger_service.store import stream_marks as store
from ledger_service.store.migrations import MigrationError, check_schema
from ledger_service.store.pool import OUT_OF_REACH, Connection, Pool, open_hot_pool, reason_of
from ledger_service.stream import StreamConfigError, check_stream, connect_nats
from ledger_service.stream_gaps import Gap, StreamGaps, first_since

#: Earlier gaps that are shown.
GAPS_SHOWN_MAX: Final = 5
RANGES_SHOWN_MAX: Final = 8
#: What a database alone knows, and a stream does not.
NOWHERE_ELSE: Final = (
    "decisions and holds: a call that was admitted then is held by nothing, and counted when its outcome arrives",
    "plans, accounts, overrides, credit grants, prices, adjustments: make those changes again",
    "service tokens: those made then are unknown, those REVOKED then are valid again: revoke them again",
    "events that came over HTTP only: journals show theirs as holes; others have to send theirs again",
    "what was decided about dead letters",
)

Since = Annotated[
    str | None,
    typer.Option("--since", help="Read again all that the stream got since: 2026-11-22T10:00:00Z. For lost marks."),
]
From = Annotated[
    int | None, typer.Option("--from", min=1, help="Read again from this sequence number of the stream on.")
]


@dataclass(frozen=True)
class Seals:
    """Where the database's chain ends, and the newest checkpoint that was published."""

    own: tuple[int, str] | None
    published: dict[str, SignedCheckpoint | None]
    trouble: str | None = None

    @property
    def newest(self) -> SignedCheckpoint | None:
        found = [one for one in self.published.values() if one is not None]
        return max(found, key=lambda one: one.checkpoint.size, default=None)

    @property
    def is_fork(self) -> bool:
        return self.newest is not None and self.newest.checkpoint.size > (self.own[0] if self.own else 0)


@dataclass(frozen=True)
class State:
    """All that the report says."""

    gaps: list[store.ClosedGap]
    holes: list[store.Holes]
    seals: Seals | None


def close_gap(since: Since = None, from_sequence: From = None, as_json: AsJson = False) -> None:
    """After a restore: reads again what JetStream has and the database lost, and says what could not be closed.

    The ledger does the first by itself when it starts; this command does it too, whether one runs or not, and says
    what came of it, earlier gaps included. Safe to run again. Exit 0 where nothing is missing that is known of, else 1.
    """
    if since is not None and from_sequence is not None:
        raise typer.BadParameter("--since and --from are two ways to say the same: give one")
    # Standard output is for the report.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        state = asyncio.run(_close(moment(since), from_sequence))
    except (MigrationError, StreamConfigError) as error:
        raise stop(str(error)) from None
    except OUT_OF_REACH as error:
        raise stop(
            f"cannot reach the servers: {reason_of(error)}", "Check LEDGER_DATABASE_URL and LEDGER_NATS_URL."
        ) from None
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
        raise stop(
            f"cannot work with the database: {error}",
            "`ledger migrate` makes the schema; LEDGER_DATABASE_URL is to name the ledger's own role.",
        ) from None
    except nats.errors.Error as error:
        raise stop(
            f"cannot read the stream: {error}", "Check LEDGER_NATS_URL: it needs the ledger's identity."
        ) from None
    if as_json:
        write_json(_as_json(state))
    else:
        _show(state)
    if state.holes or (state.seals is not None and state.seals.is_fork):
        raise typer.Exit(ExitCode.FAILED)


async def _close(since: datetime | None, from_sequence: int | None) -> State:
    settings = own_settings()
    connection = await connect_nats(settings.nats_access, "ledger-close-gap")
    try:
        await check_stream(connection)
        pool = await open_hot_pool(settings.database_url, 2, "close-gap")
        try:
            async with pool.acquire() as database:
                await check_schema(database)
            await _read_again(pool, connection, since, from_sequence)
            async with pool.acquire() as database:
                gaps = await store.gaps(database, STREAM, GAPS_SHOWN_MAX)
                return State(gaps, await store.holes(database), await _seals(settings, connection, database))
        finally:
            await pool.close()
    finally:
        await connection.close()


async def _read_again(pool: Pool, connection: Client, since: datetime | None, from_sequence: int | None) -> None:
    with _bar() as bar:
        gaps = StreamGaps(pool, connection)
        if since is None and from_sequence is None:
            await gaps.close_found(bar)
            return
        last = (await connection.jetstream().stream_info(STREAM)).state.last_seq
        first = await first_since(connection, since) if since is not None else from_sequence
        assert first is not None
        if first <= last:
            await gaps.reread(Gap(first, last), bar)


@contextmanager
def _bar() -> "Iterator[_Bar]":
    console = messages()
    columns = (TextColumn("messages"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Bar(bars)


class _Bar:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("messages", total=None)

    def __call__(self, done: int, total: int) -> None:
        self._bars.update(self._task, completed=done, total=total)


async def _seals(settings: Settings, connection: Client, database: Connection) -> Seals | None:
    """None where this ledger does not seal."""
    try:
        key = find_signing_key(settings)
        if key is None:
            return None
        chain = SealChain(key, trusted_keys(settings))
    except SealKeyError as error:
        return Seals(None, {}, str(error))
    row = await seal_store.find_last(database, chain.origin)
    own = None if row is None else (int(row["size"]), str(row["note"]))
    places: dict[str, CheckpointFile | CheckpointStream] = {"the stream": CheckpointStream(connection, chain)}
    if settings.seals_file is not None:
        places[str(settings.seals_file)] = CheckpointFile(settings.seals_file, chain)
    try:
        return Seals(own, {name: await place.head() for name, place in places.items()})
    except SealsDivergedError as error:
        return Seals(own, {}, str(error))


def _as_json(state: State) -> dict[str, Any]:  # Any: JSON
    seals = state.seals
    newest = seals.newest if seals else None
    return {
        "gaps": [{**orjson.loads(gap.report), "closed_at": gap.closed_at.isoformat()} for gap in state.gaps],
        "holes": [
            {"source": one.source, "missing": one.missing, "last_sequence": one.last_sequence} for one in state.holes
        ],
        "lost_with_the_database": list(NOWHERE_ELSE) if state.gaps else [],
        "seals": None
        if seals is None
        else {
            "chain_ends_at": seals.own[0] if seals.own else 0,
            "published_up_to": newest.checkpoint.size if newest else 0,
            "is_fork": seals.is_fork,
            "trouble": seals.trouble,
        },
    }


def _show(state: State) -> None:
    console = messages()
    if not state.gaps:
        console.print("Nothing had to be read again: the database has all that was acknowledged.", style="green")
    for gap in state.gaps:
        _show_gap(gap)
    if state.holes:
        table = Table("source", "numbers that never arrived", "its last number", title="Not closed: holes")
        for one in state.holes:
            table.add_row(one.source, _ranges(one.missing), f"{one.last_sequence:,}")
        output().print(table)
        console.print(
            "Their journals no longer have what was confirmed; what is on its way still closes a hole by itself."
        )
    if state.seals is not None:
        _show_seals(state.seals)


def _show_gap(gap: store.ClosedGap) -> None:
    console, report = messages(), orjson.loads(gap.report)
    console.print(
        f"{shown(gap.closed_at)}: read messages {gap.first_sequence:,} to {gap.last_sequence:,} of the stream again. "
        f"The log had ended at {shown(gap.log_ended_at) or 'nothing'}.",
        style="bold",
    )
    console.print(
        f"  {report['restored']:,} came back, {report['duplicates']:,} were there, {report['dead_letters']:,} are dead "
        f"letters, {report['gone_from_stream']:,} are no longer in the stream"
    )
    if report["sources"]:
        table = Table("source", "numbers that came back", title="Closed")
        for source, ranges in report["sources"].items():
            table.add_row(source, _ranges([(first, last) for first, last in ranges]))
        output().print(table)
    lost = report["outcomes_without_decision"]
    if lost:
        accounts = ", ".join(list(lost)[:RANGES_SHOWN_MAX]) + (" …" if len(lost) > RANGES_SHOWN_MAX else "")
        console.print(
            f"  {sum(lost.values()):,} outcomes came back whose limit check did not: each counts in the windows of "
            f"its own time; accounts: {accounts}",
            markup=False,
        )
    console.print(f"Lost since {shown(gap.log_ended_at) or 'the beginning'}, as it was nowhere else:", style="yellow")
    for line in NOWHERE_ELSE:
        console.print(f"  - {line}", markup=False)


def _show_seals(seals: Seals) -> None:
    console = messages()
    if seals.trouble is not None:
        console.print(f"seals: {seals.trouble}", style="yellow", markup=False)
        return
    own = seals.own[0] if seals.own else 0
    newest = seals.newest
    if not seals.is_fork:
        console.print(f"seals: the chain ends at {own:,} rows, and nothing longer was published", style="green")
        return
    assert newest is not None
    console.print(
        f"seals: the restored chain ends at {own:,} rows, and a checkpoint over {newest.checkpoint.size:,} rows was "
        f"published, sealed {shown(newest.checkpoint.sealed_at)}. Nothing is sealed until a new chain begins:",
        style="red",
    )
    console.print(
        f"  set LEDGER_SEALS_ORIGIN={newest.checkpoint.origin}/2 (any name that was never used),", markup=False
    )
    console.print(f"  add {newest.key} to LEDGER_SEALS_TRUSTED_KEYS,", markup=False, soft_wrap=True)
    console.print("  and start the ledger again. The old checkpoints still prove what they did: keep them.")


def _ranges(ranges: list[tuple[int, int]]) -> str:
    texts = [f"{first:,}" if first == last else f"{first:,}-{last:,}" for first, last in ranges[:RANGES_SHOWN_MAX]]
    return ", ".join(texts) + (
        f" and {len(ranges) - RANGES_SHOWN_MAX:,} more" if len(ranges) > RANGES_SHOWN_MAX else ""
    )
