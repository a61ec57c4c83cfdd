"""One table: what was measured, what it is compared with, and whether it is what we aim for."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDTH_MIN = 150


@dataclass(frozen=True)
class Figure:
    """A measured value and, where there is one, its counterpart; ``ratio_aim`` such as ``(">=", 0.6)``."""

    name: str
    value: float
    unit: str
    value_aim: tuple[str, float] | None = None
    beside: str = ""
    beside_value: float | None = None
    ratio_aim: tuple[str, float] | None = None

    @property
    def ratio(self) -> float | None:
        return None if not self.beside_value else self.value / self.beside_value

    @property
    def met(self) -> bool | None:
        """Whether all aims are met; None where there are none."""
        checks = [
            _holds(value, aim)
            for value, aim in ((self.value, self.value_aim), (self.ratio, self.ratio_aim))
            if aim is not None and value is not None
        ]
        return all(checks) if checks else None


@dataclass
class Report:
    """``tell`` hears of each figure as it comes."""

    figures: list[Figure] = field(default_factory=list)
    tell: Callable[[Figure], None] | None = None

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        if self.tell is not None:
            self.tell(figure)

    def show(self) -> None:
        console = Console()
        console.width = max(console.width, WIDTH_MIN)
        table = Table(title="Measured on this machine, medians", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("what")
        for title in ("figure", "aim"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("beside, in the same run")
        for title in ("its figure", "ratio", "aim"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("")
        for figure in self.figures:
            table.add_row(*_cells(figure))
        console.print(table)

    def as_json(self) -> str:
        return json.dumps(self._documents(), indent=2)

    def keep(self, file: Path, part: str, parts: Sequence[str]) -> None:
        """Writes the figures as those of a part, in the place of what the file had of it; in the order of ``parts``."""
        before = json.loads(file.read_text()) if file.exists() else []
        kept = [one for one in before if one["part"] != part]
        kept += [{"part": part, **one} for one in self._documents()]
        kept.sort(key=lambda one: parts.index(one["part"]))
        file.write_text(json.dumps(kept, indent=2) + "\n")

    def _documents(self) -> list[dict[str, object]]:
        return [{**asdict(one), "ratio": one.ratio, "met": one.met} for one in self.figures]


class Steps:
    """Shows on the terminal what is being measured, and for how long: call it with each step's name."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, text: str) -> None:
        for task in self._progress.task_ids:
            self._progress.stop_task(task)
        self._progress.add_task(text, total=None)

    def tell(self, figure: Figure) -> None:
        """Says what came out, above the steps."""
        self._progress.console.print(_line(figure), highlight=False)


@contextmanager
def steps() -> Iterator[Steps]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Steps(progress)


def _line(figure: Figure) -> str:
    name, value, aim, beside, _, ratio, ratio_aim, mark = _cells(figure)
    parts = [f"{name}: [bold]{value}[/bold]{f' (aim {aim})' if aim else ''}"]
    if ratio:
        parts.append(f"{ratio} times {beside}{f' (aim {ratio_aim})' if ratio_aim else ''}")
    return ", ".join((*parts, mark) if mark else parts)


def _cells(figure: Figure) -> tuple[str, ...]:
    mark = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[figure.met]
    return (
        figure.name,
        f"{_number(figure.value)} {figure.unit}",
        _aim(figure.value_aim),
        figure.beside,
        "" if figure.beside_value is None else f"{_number(figure.beside_value)} {figure.unit}",
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        _aim(figure.ratio_aim),
        mark,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _aim(aim: tuple[str, float] | None) -> str:
    return "" if aim is None else f"{aim[0]} {_number(aim[1])}"


def _holds(value: float, aim: tuple[str, float]) -> bool:
    return value >= aim[1] if aim[0] == ">=" else value <= aim[1]
