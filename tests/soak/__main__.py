"""``python -m tests.soak [--checks N] [--accounts N]``: a million random checks, and was each decision right?"""

import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.soak.lasting import run_lasting
from tests.soak.run import Outcome, Size, soak
from tests.soak.stack import stack_of


def main(
    checks: Annotated[int, typer.Option(min=1, help="How many limit checks.")] = 1_000_000,
    accounts: Annotated[int, typer.Option(min=2, help="Of how many accounts.")] = 1000,
    processes: Annotated[int, typer.Option(min=1, help="Ledger processes, side by side.")] = 3,
    callers: Annotated[int, typer.Option(min=1, help="Checks at once.")] = 256,
    seed: Annotated[
        int | None, typer.Option(help="Of the plans and amounts; the order of arrival is the machine's.")
    ] = None,
    minutes: Annotated[
        int | None, typer.Option(min=1, help="Instead: mixed load for so long, with a fault a minute, and a report.")
    ] = None,
) -> None:
    """Checks at random, settles, releases and lets expire at random, then replays the log. Exits 1 for a wrong one."""
    console = Console()
    if minutes is not None:
        raise typer.Exit(0 if run_lasting(minutes, seed, console) else 1)
    chosen = secrets.randbelow(10**6) if seed is None else seed
    console.print(f"{checks:,} checks, {accounts:,} accounts, {processes} ledgers, {callers} callers, seed {chosen}")
    columns = (
        TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="usage-ledger-soak-") as folder,
        stack_of(Path(folder), processes, durable=True) as stack,
        Progress(*columns, console=console) as progress,
    ):
        checking = progress.add_task("checked", total=checks)
        verifying = progress.add_task("verified", total=accounts)
        outcome = uvloop.run(
            soak(
                stack,
                Size(checks, accounts, callers, chosen),
                checked=lambda count: progress.advance(checking, count),
                verified=lambda count: progress.advance(verifying, count),
            )
        )
    show(outcome, console)
    if outcome.findings.broken:
        raise typer.Exit(1)


def show(outcome: Outcome, console: Console) -> None:
    console.print(f"{outcome.checks_per_second:,.0f} checks/s, with all else on the same machine")
    for title, counts in (("load", outcome.did), ("log", outcome.findings.seen)):
        console.print(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    for rule, count in outcome.findings.broken.items():
        console.print(f"[red]wrong[/red] {rule}: {count:,}")
    for line in outcome.findings.shown:
        console.print(f"  {line}", markup=False, highlight=False)
    if not outcome.findings.broken:
        console.print("[green]every decision was right[/green]: none past a limit, none denied while there was room")


if __name__ == "__main__":
    typer.run(main)
