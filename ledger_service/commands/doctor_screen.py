"""How findings look in a terminal, from 80 columns on: a table of all, then what is wrong with what to do about it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ledger_service.domain.doctor.findings import Finding, Status

_STYLES: Final = {
    Status.OK: "green",
    Status.SKIPPED: "dim",
    Status.UNKNOWN: "yellow",
    Status.WARNING: "bold yellow",
    Status.FAILURE: "bold red",
}
_PLURALS: Final = {Status.WARNING: "warnings", Status.FAILURE: "failures"}
#: Of checks that could not be made for one reason; --json names all.
_NAMED_MAX: Final = 4
#: The longest name of a check has it on one line.
_NAME_WIDTH: Final = 27


def table(findings: Sequence[Finding]) -> Table:
    """All of them, one a row; those that one reason keeps from being known are one row."""
    shown = Table("", "check", "found", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    shown.columns[1].max_width = _NAME_WIDTH
    for rows in _by_reason(findings):
        first = rows[0]
        names = ", ".join(one.id for one in rows[:_NAMED_MAX])
        more = f" and {len(rows) - _NAMED_MAX} more" if len(rows) > _NAMED_MAX else ""
        shown.add_row(_status(first.status), names + more, Text(first.found))
    return shown


def details(findings: Iterable[Finding]) -> RenderableType:
    """What is not as it should be, the worst last, where a terminal ends."""
    order = list(Status)
    wrong = [one for one in findings if one.status in (Status.WARNING, Status.FAILURE) or _can_be_helped(one)]
    return Group(*(_detail(one) for one in sorted(wrong, key=lambda one: order.index(one.status))))


def summary(findings: Iterable[Finding]) -> Text:
    counted = Counter(one.status for one in findings)
    parts = []
    for status in reversed(Status):
        if counted[status]:
            name = _PLURALS.get(status, status.value) if counted[status] > 1 else status.value
            parts.append(Text(f"{counted[status]} {name}", _STYLES[status]))
    return Text(", ").join(parts)


def _by_reason(findings: Sequence[Finding]) -> list[list[Finding]]:
    grouped: dict[object, list[Finding]] = {}
    for one in findings:
        key = one.found if one.status is Status.UNKNOWN and not one.advice else one.id
        grouped.setdefault((one.status, key), []).append(one)
    return list(grouped.values())


def _can_be_helped(one: Finding) -> bool:
    return one.status is Status.UNKNOWN and bool(one.advice)


def _detail(one: Finding) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for name, text in (("found", one.found), ("expected", one.expected), ("do", one.advice), ("see", one.see)):
        if text:
            lines.add_row(name, Text(text, style="bold" if name == "do" else ""))
    title = Text.assemble(_status(one.status), " ", (one.id, "bold"))
    return Group("", title, Padding(lines, (0, 0, 0, 2)))


def _status(status: Status) -> Text:
    return Text(status.value, style=_STYLES[status])
