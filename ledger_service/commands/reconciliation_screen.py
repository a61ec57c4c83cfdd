"""What `ledger reconcile` shows people: totals, the largest differences, and what to do next."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from contracts.money import COST_NANOS_MAX, NANOS_PER_DOLLAR, format_nanos
from ledger_service.commands.database import shown
from ledger_service.domain.reconciliation import Item, Status
from ledger_service.domain.reconciliation_proposals import TooLarge
from ledger_service.domain.reconciliation_report import Report, Tally
from ledger_service.reconciliation_files import Proposed, moment_of
from ledger_service.reconciling import Reconciliation

ROWS_SHOWN: Final = 20

_WHAT: Final = {
    Status.MATCHED: "matched",
    Status.PRICE_DIFFERENCE: "price differs",
    Status.IN_DOUBT_FOUND: "in doubt, found with them",
    Status.IN_DOUBT_NOT_FOUND: "in doubt, not found",
    Status.MISSING_WITH_US: "missing with us",
    Status.MISSING_WITH_THEM: "missing with them",
    Status.DUPLICATE: "billed twice",
}
_NEXT: Final = {
    Status.PRICE_DIFFERENCE: "price differs: is the catalogue right (`ledger prices`)? Proposed is what they billed.",
    Status.IN_DOUBT_FOUND: "in doubt, found: proposed is what they billed.",
    Status.IN_DOUBT_NOT_FOUND: "in doubt, not found: proposed are voids; wait for the complete invoice first.",
    Status.MISSING_WITH_US: "missing with us: has somebody used the key past the ledger, or did a job begin more than "
    "a day before --from? Then give the files of both times. --missing-to ACCOUNT proposes to book them.",
    Status.MISSING_WITH_THEM: "missing with them: not billed yet, or never. --not-billed proposes they cost nothing.",
    Status.DUPLICATE: "billed twice: claim it from the provider; its credit settles them.",
}


def show(screen: Console, done: Reconciliation) -> None:
    report = done.report
    until = f"{shown(done.start)} until before {shown(done.end)}, UTC"
    rows = sum(file.rows for file in done.files)
    files = "a file" if len(done.files) == 1 else f"{len(done.files)} files"
    screen.print(f"{done.provider}, {until}: {rows} lines in {files}", highlight=False)
    screen.print(_totals(report))
    models = [(model, tally) for model, tally in report.models() if tally.difference]
    if models:
        screen.print(_models(models[:ROWS_SHOWN]))
    if report.differences:
        screen.print(_largest(done))


def show_next(
    screen: Console, done: Reconciliation, export: Path | None, proposals: Path | None, proposed: Proposed | None
) -> None:
    report = done.report
    for file in done.files:
        told = [f"{file.skipped} rows skipped"] if file.skipped else []
        told += [f"{file.rounded} amounts rounded to nano-dollars"] if file.rounded else []
        if told:
            screen.print(f"{file.name}: {', '.join(told)}, as the mapping says", markup=False)
    if done.outside.lines:
        screen.print(
            f"{done.outside.lines} lines of the files, ${format_nanos(done.outside.theirs)}, are of other times than "
            "--from and --to say: they are compared with nothing, and in no total.", style="yellow",
        )  # fmt: skip
    others = done.of_other_times
    if others.charges:
        screen.print(
            f"{others.charges} operations, ${format_nanos(others.ours)}, began at other times and were billed in this "
            "one: they are in the totals. Give the file of their own time as well, to see whether that bills them too."
        )
    if done.archived_before is not None:
        screen.print(
            f"operations before {done.archived_before:%Y-%m} are in archives: a job that began before and was billed "
            "later is shown as missing with us. `ledger unarchive` brings them back."
        )
    if report.total.theirs < 0 < report.total.ours:
        screen.print(
            "what they bill is less than nothing: do charges stand as the mapping says (charges)?", style="red"
        )
    if report.agrees:
        screen.print("both agree, to the nano-dollar", style="green")
    for status, tally in report.by_status.items():
        if tally.findings and status in _NEXT:
            screen.print(_NEXT[status], markup=False)
    if len(report.differences) > ROWS_SHOWN and export is None:
        screen.print(f"{len(report.differences)} findings in all: --export DIR writes every one")
    if export is not None:
        screen.print(f"every finding: {export}", markup=False)
    if proposals is not None and proposed is not None:
        screen.print(
            f"{proposed.adjustments} adjustments proposed in {proposals}. Read them; "
            f"`ledger adjust-all {proposals} --author YOU` records them, and the same reconciliation then shows "
            "what is left.",
            markup=False,
        )
        _show_too_large(screen, proposed.too_large)
        if proposed.not_kept:
            screen.print(
                f"of the last {proposed.not_kept:,} findings nothing is proposed: settle these, then run it again",
                style="red",
            )
    elif not report.agrees:
        screen.print("--propose-adjustments FILE writes the adjustments that would settle it")


def _show_too_large(screen: Console, left_out: Sequence[TooLarge]) -> None:
    if not left_out:
        return
    most, number = COST_NANOS_MAX // NANOS_PER_DOLLAR, len(left_out)
    are = "1 finding is" if number == 1 else f"{number} findings are"
    screen.print(
        f"{are} not among them: an adjustment is ${most} at most. In parts, `ledger adjust` records:", style="red"
    )
    for one in left_out[:ROWS_SHOWN]:
        screen.print(f"  {one.finding}: ${format_nanos(one.cost)} of {one.account_id}", markup=False)
    if number > ROWS_SHOWN:
        screen.print(f"  and {number - ROWS_SHOWN} more: --json names all of them")


def _totals(report: Report) -> Table:
    table = Table("", *_AMOUNTS, title="Totals", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for status, tally in report.by_status.items():
        if tally.findings or status is Status.MATCHED:
            table.add_row(_WHAT[status], *_cells(tally))
    table.add_section()
    table.add_row("all", *_cells(report.total), style="bold")
    return table


_AMOUNTS: Final = ("lines", "operations", "theirs $", "ours $", "difference $")


def _cells(tally: Tally) -> list[str]:
    amounts = [format_nanos(tally.theirs), format_nanos(tally.ours), _signed(tally.difference)]
    return [str(tally.lines), str(tally.charges), *amounts]


def _models(models: list[tuple[str, Tally]]) -> Table:
    table = Table("model", *_AMOUNTS, "%", title="Differences by model", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.columns[0].overflow = "fold"
    for model, tally in models:
        table.add_row(model, *_cells(tally), tally.percent or "")
    return table


def _largest(done: Reconciliation) -> Table:
    table = Table(title=f"Largest differences, {ROWS_SHOWN} at most", title_justify="left")
    for column in ("what", "line", "job", "operation", "model"):
        table.add_column(column, overflow="fold")
    for column in ("at", "theirs $", "ours $", "difference $"):
        table.add_column(column, justify="right")
    for item in done.report.largest(ROWS_SHOWN):
        table.add_row(*_finding(item, [file.name for file in done.files]))
    return table


def _finding(item: Item, names: list[str]) -> list[str]:
    first = item.lines[0] if item.lines else None
    more = f" +{len(item.lines) - 1}" if len(item.lines) > 1 else ""
    charge = item.charge
    job = first.job_id if first else next(iter(charge.job_ids), None) if charge else None
    ours = f"{item.charge_count} in all" if charge is None and item.charge_count else ""
    ordered, billed = len(charge.job_ids) if charge else 0, len({line.job_id for line in item.lines})
    jobs = f", {billed} of {ordered} jobs" if item.lines and billed < ordered else ""
    return [
        _WHAT[item.status] + jobs,
        f"{names[first.file]}:{first.number}{more}" if first else "",
        job or "",
        f"{charge.account_id} {charge.entry_id}" if charge else ours,
        item.model,
        moment_of(item.at)[:19].replace("T", " "),
        format_nanos(item.theirs),
        format_nanos(item.ours),
        _signed(item.difference),
    ]


def _signed(nanos: int) -> str:
    return f"{'+' if nanos > 0 else ''}{format_nanos(nanos)}"
