"""`ledger seals …`: the key, and whether the log is what was sealed."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import asyncpg
import nats.errors
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from contracts.access.nats_access import NatsAccess
from contracts.exit_codes import ExitCode
from ledger_service.commands.database import messages, output, own_settings, stop
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.config import Settings
from ledger_service.domain.checkpoints import VerifierKey, VerifierKeyError
from ledger_service.domain.seal_differences import Kind, describe
from ledger_service.published_checkpoints import PublishedCheckpoints, notes_of
from ledger_service.seal_keys import SealKeyError, find_signing_key, trusted_keys
from ledger_service.seal_publishing import read_stream
from ledger_service.seal_verification import SealReport, hashing_processes, verify_seals
from ledger_service.store.pool import OUT_OF_REACH, reason_of
from ledger_service.stream import connect_nats

app = typer.Typer(no_args_is_help=True, help="Signed checkpoints over the log.")

_STREAM: Final = "the stream"

Keys = Annotated[list[str] | None, typer.Option("--key", help="Believe this public key only; several times: these.")]
File = Annotated[Path | None, typer.Option("--file", help="Published checkpoints; default: LEDGER_SEALS_FILE.")]


@app.command()
def key(as_json: AsJson = False) -> None:
    """The public key that checkpoints are signed with, for those who verify them."""
    try:
        found = find_signing_key(own_settings())
    except SealKeyError as error:
        raise stop(str(error)) from None
    if found is None:
        raise stop("There is no key yet.", "Set LEDGER_SEALS_KEY_FILE; the ledger makes it when it starts.")
    if as_json:
        write_json({"key": str(found.verifier)})
    else:
        output().print(str(found.verifier), markup=False, soft_wrap=True)


@app.command()
def verify(
    keys: Keys = None,
    file: File = None,
    stream: Annotated[bool, typer.Option(help="Compare with the checkpoints in the NATS stream, too.")] = True,
    processes: Annotated[int, typer.Option(min=1, help="That hash rows.")] = os.cpu_count() or 1,
    as_json: AsJson = False,
) -> None:
    """Whether every sealed row is there unchanged, and the checkpoints are those that were published.

    Exit 1: no, or it cannot be said, as nothing is sealed or the stream cannot be read.
    """
    report = verify_and_show(keys, file, stream, processes, quiet=as_json)
    if as_json:
        write_json(seals_as_json(report))
    if not report.proves:
        raise typer.Exit(ExitCode.FAILED)


def verify_and_show(
    keys: list[str] | None, file: Path | None, stream: bool, processes: int, *, quiet: bool = False
) -> SealReport:
    """Verifies with a progress bar, and, unless ``quiet``, prints what was found."""
    settings = own_settings()
    believed = _believed(settings, keys)
    published, unread = _published(settings, file, stream, believed)
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=messages(), transient=True) as progress:
        task = progress.add_task("rows", total=None, rate="")

        def on_progress(done: int, total: int) -> None:
            elapsed = progress.tasks[0].elapsed or 1.0
            progress.update(task, completed=done, total=total, rate=f"{done / elapsed:,.0f}/s")

        try:
            with hashing_processes(processes) as executor:
                verifying = verify_seals(
                    settings.database_url, settings.seals_origin, believed, published, executor, on_progress
                )
                report = asyncio.run(verifying)
        except OUT_OF_REACH as error:
            raise stop(f"cannot reach the database: {reason_of(error)}", "Check LEDGER_DATABASE_URL.") from None
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
            raise stop(
                f"cannot read the seals: {error}",
                "Check that LEDGER_DATABASE_URL is the ledger's database, as the role auditor or the ledger's own.",
            ) from None
    report.unread = unread
    if not quiet:
        show(report)
    return report


def seals_as_json(report: SealReport) -> dict[str, object]:
    """The report, with the rows that differ in words."""
    last = report.last
    return {
        "holds": report.holds,
        "rows": report.rows,
        "checkpoints": report.checkpoints,
        "unsealed": report.unsealed,
        "published": report.published,
        "foreign": report.foreign,
        "unread": report.unread,
        "last": None if last is None else {"size": last.size, "sealed_at": last.sealed_at},
        "differences": [
            {"kind": one.kind, "row": describe(one.row) if one.row else None, "detail": one.detail}
            for one in report.differences
        ],
        "unnamed": report.unnamed,
    }


def _believed(settings: Settings, keys: list[str] | None) -> Sequence[VerifierKey]:
    try:
        if keys:
            found = [VerifierKey.parse(text) for text in keys]
        else:
            own = find_signing_key(settings)
            found = [*([own.verifier] if own else []), *trusted_keys(settings)]
    except (SealKeyError, VerifierKeyError) as error:
        raise stop(str(error)) from None
    if not found:
        raise stop("No public key is known to verify with.", "Give --key, or set LEDGER_SEALS_TRUSTED_KEYS.")
    if settings.seals_origin not in (names := {one.name for one in found}):
        raise stop(
            f"None of the keys signs for the chain {settings.seals_origin}: they are of {', '.join(sorted(names))}.",
            "Set LEDGER_SEALS_ORIGIN to the chain that is to be verified, or give its key.",
        )
    return found


def _published(
    settings: Settings, file: Path | None, stream: bool, believed: Sequence[VerifierKey]
) -> tuple[dict[str, PublishedCheckpoints], dict[str, str]]:
    """What was published, by place; and of places that could not be read, why."""
    published, unread = {}, {}
    path = file or settings.seals_file
    if path is not None:
        try:
            with path.open(errors="replace") as opened:
                published[str(path)] = PublishedCheckpoints(settings.seals_origin, believed).take(notes_of(opened))
        except FileNotFoundError:
            if file is not None:
                raise stop(f"there is no file {file}") from None
        except OSError as error:
            raise stop(f"{path} cannot be read: {error}") from None
    if stream:
        try:
            found = PublishedCheckpoints(settings.seals_origin, believed)
            asyncio.run(_read_stream(settings.nats_access, found))
            published[_STREAM] = found
        except (OSError, TimeoutError, nats.errors.Error) as error:
            unread[_STREAM] = reason_of(error)
    if not published:
        messages().print(
            "Nothing published is compared: a history rewritten with the ledger's own key would not be seen.",
            style="yellow",
        )
    return published, unread


async def _read_stream(access: NatsAccess, found: PublishedCheckpoints) -> None:
    connection = await connect_nats(access, "ledger-seals-verify")
    try:
        async for note in read_stream(connection):
            found.add(note)
    finally:
        await connection.close()


def show(report: SealReport) -> None:
    """The report, as a table of what differs and a summary."""
    console = messages()
    if report.differences:
        table = Table("what", "which row, or checkpoint")
        for one in report.differences:
            where = describe(one.row) if one.row else one.detail
            table.add_row(one.kind, f"{where}: {one.detail}" if one.row and one.detail else where)
        output().print(table)
        if report.unnamed:
            console.print(f"and {report.unnamed:,} more")
    console.print(f"{report.rows:,} sealed rows under {report.checkpoints:,} checkpoints")
    if report.unsealed:
        console.print(f"{report.unsealed:,} rows are not sealed yet")
    for place, agreeing in report.published.items():
        foreign = report.foreign[place]
        more = f"; {foreign:,} texts there are signed by no key that is believed" if foreign else ""
        console.print(f"{agreeing:,} checkpoints in {place} are the database's{more}", markup=False, soft_wrap=True)
    if report.last:
        console.print(
            f"newest checkpoint: {report.last.size:,} rows, sealed {report.last.sealed_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    for place, why in report.unread.items():
        console.print(f"{place} cannot be read, and is not compared: {why}", style="yellow", markup=False)
    if report.holds and not report.checkpoints:
        console.print("Nothing is sealed: there is nothing to compare the log with.", style="yellow")
    elif report.holds and report.unread:
        console.print(
            "What was sealed is there, but whether it is what was published is not known. Make the stream reachable "
            "(LEDGER_NATS_URL), or leave it out with --no-stream.",
            style="yellow",
        )
    elif report.holds:
        console.print("What was sealed is there, unchanged.", style="green")
    else:
        rewritten = any(one.kind is Kind.PUBLISHED for one in report.differences)
        console.print("The log is NOT what was sealed.", style="bold red")
        console.print(
            "Keep this database as it is, and the published checkpoints: see deploy/guides/seals.md."
            if rewritten
            else "The rows above are not as they were recorded: see deploy/guides/seals.md."
        )
