"""How the demo looks: sections of small tables above a progress bar, plain lines where there is no terminal."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts.limits import LimitState, Meter
from contracts.money import parse_nanos
from deploy.local.demo_client import Answer, LogRow, Usage
from deploy.local.demo_verdict import Failure, Promise, SavedPicture, Size, dollars

WIDTH_MAX: Final = 100
SIDE_BY_SIDE_MIN: Final = 96
INDENT: Final = 3
BAR_WIDTH: Final = 50
COUNT_WIDTH: Final = 6
# How much of the bar a step is; one answer of the hundred weighs 1.
STEP_WEIGHT: Final = 10
START_WEIGHT: Final = 60
STEPS: Final = 5  # after the start
DENIALS_SHOWN_MAX: Final = 3
NEWEST_ROWS_SHOWN: Final = 4
OLDEST_ROWS_SHOWN: Final = 3
ID_SHOWN: Final = 12


class Screen:
    """Shows the demo on one console."""

    def __init__(self, console: Console, answers_expected: int) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._total = START_WEIGHT + STEPS * STEP_WEIGHT + answers_expected
        self._task: TaskID | None = None
        self._weight = 0  # of the step that is being done

    @contextmanager
    def working(self) -> Iterator[None]:
        """The progress bar is there meanwhile."""
        with self._progress:
            yield

    def step(self, description: str) -> None:
        """What is being done from now on; what was, is done."""
        if self._task is None:
            self._task = self._progress.add_task(description, total=self._total)
            self._weight = START_WEIGHT
            return
        self._progress.update(self._task, description=description, advance=self._weight)
        self._weight = STEP_WEIGHT

    def answered(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))

    def opening(self, limits: str) -> None:
        self._console.print(Panel(Text(limits), title="usage-ledger demo", title_align="left", border_style="cyan"))

    def photo(self, original: Path, size: Size, results: list[tuple[str, Answer, SavedPicture]]) -> None:
        table = _table("operation", "model", ">pixels", ">cost", ">took", "file")
        table.add_row("", "", _pixels(size), "", "", Text(f"photo/{original.name}", "dim"))
        for operation, answer, saved in results:
            done = answer.done
            assert done is not None, "only what succeeded was saved"
            cost, took = dollars(done.cost), f"{answer.seconds * 1000:.0f} ms"
            table.add_row(operation, done.model, _pixels(saved.size), cost, took, saved.path.name)
        self._section("1  A photograph, edited and upscaled", "photo: danielbuechele, CC BY 2.0", table)

    def failure(self, failure: Failure) -> None:
        table = _table("the limit images", ">settled", ">held", ">available", "~")
        found = f"hold {failure.decision.state}, nothing charged" if failure.decision.state == "released" else ""
        for when, limit, what in (
            ("before", failure.before, ""),
            ("when admitted", failure.admitted, "one image held while the provider works"),
            ("after the failure", failure.after, found or f"hold {failure.decision.state}"),
        ):
            table.add_row(when, str(limit.settled), str(limit.held), str(limit.available), Text(what, "dim"))
        code = failure.answer.problem.code if failure.answer.problem else ""
        self._section("2  An operation that fails", f"local-unreliable-1: {failure.answer.status} {code}", table)

    def burst(self, answers: list[Answer], before: LimitState, seconds: float) -> None:
        counts = Counter(_outcome(answer) for answer in answers)
        bars = Table.grid(padding=(0, 2))
        styles = {"200": "green", "429": "yellow"}
        for outcome, count in sorted(counts.items()):
            bar = Text("■" * round(count / len(answers) * BAR_WIDTH), styles.get(outcome[:3], "red"))
            bars.add_row(Text(str(count).rjust(COUNT_WIDTH), "bold"), outcome, bar)
        room = f"room for {before.available} ({before.maximum} - {before.settled} already used)"
        repeats = sum(answer.repeats for answer in answers)
        asked_again = f", {repeats} asked again after a 503" if repeats else ""
        parts: list[RenderableType] = [bars]
        denials = Counter((denial.limit_id, denial.message) for answer in answers if (denial := answer.denial))
        if denials:
            parts += ["", _denials(denials)]
        self._section(f"3  {len(answers)} generate calls at once", f"{room}, {seconds:.1f} s{asked_again}", *parts)

    def usage(self, account_id: str, usage: Usage) -> None:
        amounts = _table("usage", ">calls", ">units", ">failed", ">cost")
        for name, totals in sorted(usage.by_operation.items()):
            amounts.add_row(name, str(totals.calls), str(totals.units), str(totals.failures), dollars(totals.cost))
        whole = usage.totals
        cells = ("total", str(whole.calls), str(whole.units), str(whole.failures), dollars(whole.cost))
        amounts.add_row(*cells, style="bold")
        limits = _table("limit", ">settled", ">held", ">available", ">maximum")
        for limit in usage.limits:
            values = (limit.settled, limit.held, limit.available, limit.maximum)
            limits.add_row(limit.limit_id, *(_amount(limit, value) for value in values))
        beside: RenderableType = Group(amounts, "", limits)
        if self._console.width >= SIDE_BY_SIDE_MIN:
            beside = Table.grid(padding=(0, 6))
            beside.add_row(amounts, limits)
        self._section("4  The usage summary", f"account {account_id}, {usage.period}", beside)

    def usage_log(self, rows: list[LogRow]) -> None:
        ids = ["operation_id"] if self._console.width >= SIDE_BY_SIDE_MIN else []  # what else would be cut is money
        table = _table("at (UTC)", "operation", "model", "outcome", ">cost", ">took", *ids)
        hidden = len(rows) - NEWEST_ROWS_SHOWN - OLDEST_ROWS_SHOWN
        for index, row in enumerate(rows):
            if hidden > 0 and NEWEST_ROWS_SHOWN <= index < NEWEST_ROWS_SHOWN + hidden:
                if index == NEWEST_ROWS_SHOWN:
                    table.add_row(Text(f"… {hidden} more", "dim"))
                continue
            table.add_row(
                f"{row.occurred_at:%H:%M:%S.%f}"[:-3],
                row.operation,
                row.model,
                Text(row.outcome, "green" if row.outcome == "completed" else "red"),
                dollars(row.cost),
                f"{row.duration_ms} ms",
                *(Text(f"…{str(row.operation_id)[-ID_SHOWN:]}", "dim") for _ in ids),
            )
        self._section("5  The usage log", f"{len(rows)} rows, newest first", table)

    def verdict(self, promises: list[Promise], results: Path, took_seconds: float) -> None:
        table = Table.grid(padding=(0, 2))
        for promise in promises:
            mark = Text("✓", "bold green") if promise.holds else Text("✗", "bold red")
            table.add_row(mark, Text(promise.name, "bold"), promise.numbers)
        broken = sum(not promise.holds for promise in promises)
        said = f"{broken} of {len(promises)} promises broken" if broken else f"All {len(promises)} promises held"
        style = "red" if broken else "green"
        last = Text(f"\n{said}, {took_seconds:.0f} s in all.", f"bold {style}")
        panel = Panel(Group(table, last), title="Verdict", title_align="left", border_style=style)
        self._console.print(Group("", panel))
        self._console.print(Text(f"Pictures: {results}"), soft_wrap=True)
        self._console.print("Next: make run, and deploy/guides/tutorial.md beside it", highlight=False)

    def _section(self, title: str, note: str, *parts: RenderableType) -> None:
        heading = Text.assemble((title, "bold cyan"), "  ", (note, "dim"))
        self._console.print(Group("", heading, Padding(Group(*parts), (0, 0, 0, INDENT))))


def _table(*columns: str) -> Table:
    """A column whose name begins with > is one of numbers, with ~ one of texts that may take several lines."""
    table = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False, show_edge=False)
    for name in columns:
        justify: JustifyMethod = "right" if name.startswith(">") else "left"
        table.add_column(name.lstrip(">~"), justify=justify, no_wrap=not name.startswith("~"), overflow="fold")
    return table


def _denials(denials: Counter[tuple[str | None, str]]) -> Table:
    table = _table(">denied", "limit", "~why")
    shown = denials.most_common(DENIALS_SHOWN_MAX)
    for (limit_id, message), count in shown:
        table.add_row(str(count), limit_id or "-", message)
    rest = len(denials) - len(shown)
    if rest > 0:
        count = denials.total() - sum(count for _, count in shown)
        table.add_row(str(count), "", Text(f"{rest} more messages, as calls went from held to settled", "dim"))
    return table


def _outcome(answer: Answer) -> str:
    if answer.done:
        return f"{answer.status} admitted"
    if answer.denial:
        return f"{answer.status} denied"
    return f"{answer.status} {answer.problem.code if answer.problem else ''}"


def _pixels(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _amount(limit: LimitState, value: int | str) -> str:
    return dollars(parse_nanos(value)) if limit.meter is Meter.COST else str(value)
