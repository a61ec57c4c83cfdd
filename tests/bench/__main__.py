"""``python -m tests.bench [--quick] [--only PART] [--json FILE]``: all measurements, one table."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from tests.bench.analytics import measure_analytics
from tests.bench.checks import measure_checks
from tests.bench.exports import measure_exports
from tests.bench.growth import measure_growth
from tests.bench.history import History, fill_history, kept_server
from tests.bench.images import measure_images
from tests.bench.ingest import measure_ingest
from tests.bench.machine import Servers, servers
from tests.bench.operations import measure_operations
from tests.bench.reads import measure_reads
from tests.bench.rebuild import measure_rebuild
from tests.bench.report import Report, steps
from tests.bench.seals import measure_sealed_ingest, measure_verification
from tests.bench.workload import make_accounts


@dataclass(frozen=True)
class Size:
    """``scale``: the work is divided by it. Each figure is the median of so many ``repeats``."""

    scale: int
    repeats: int
    rebuild_events: int


@dataclass(frozen=True)
class Part:
    name: str
    about: str
    measure: Callable[[Report, Size], None]


def on_servers(measure: Callable[[Servers, Report, Size], None], accounts: int = 10_000) -> Callable[..., None]:
    """On a PostgreSQL and a NATS of its own, with so many accounts."""

    def run(report: Report, size: Size) -> None:
        with servers() as made:
            if accounts:
                asyncio.run(make_accounts(made.database_url, count=accounts))
            measure(made, report, size)

    return run


def _history(report: Report, size: Size) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder,
        servers() as made,
        kept_server(Path(folder) / "postgres") as history,
    ):
        fill_history(history.url, History(300_000 // size.scale))
        measure_analytics(history.url, made.nats_url, report, size.repeats)
        measure_exports(history.url, report, repeats=size.repeats)


PARTS: Final = (
    Part(
        "ingest", "events", on_servers(lambda made, out, of: measure_ingest(made, out, 100_000 // of.scale, of.repeats))
    ),
    Part(
        "checks",
        "limit checks",
        on_servers(lambda made, out, of: measure_checks(made, out, 12_000 // of.scale, of.repeats)),
    ),
    Part(
        "sealed-ingest",
        "events while the log is sealed",
        on_servers(lambda made, out, of: measure_sealed_ingest(made, out, 100_000 // of.scale, of.repeats)),
    ),
    Part(
        "operations",
        "operations of the image service",
        on_servers(lambda made, out, of: measure_operations(made, out, 6_000 // of.scale, of.repeats)),
    ),
    Part(
        "seals",
        "a million rows sealed and verified",
        on_servers(lambda made, out, of: measure_verification(made, out, 1_000_000 // of.scale), accounts=0),
    ),
    Part(
        "growth",
        "limit checks with a thousand times as much in the database",
        on_servers(
            lambda made, out, of: measure_growth(
                made, out, 1_000, 1_000_000 // of.scale, 12_000 // of.scale, of.repeats
            )
        ),
    ),
    Part(
        "reads",
        "usage summary at one thousand and one million log rows",
        on_servers(
            lambda made, out, of: measure_reads(made, out, 1_000, 1_000_000 // of.scale, of.repeats), accounts=100
        ),
    ),
    Part("history", "analytics and exports of 18 months", _history),
    Part("images", "pictures of the local provider", lambda out, of: measure_images(out, 2_000 // of.scale)),
    Part(
        "rebuild",
        "the projections made anew",
        on_servers(lambda made, out, of: measure_rebuild(made, out, of.rebuild_events // of.scale)),
    ),
)
_NAMES: Final = [part.name for part in PARTS]


def _chosen(names: Sequence[str]) -> list[Part]:
    unknown = sorted(set(names) - set(_NAMES))
    if unknown:
        raise typer.BadParameter(f"no part {', '.join(unknown)}; there are {', '.join(_NAMES)}", param_hint="--only")
    return [part for part in PARTS if not names or part.name in names]


def bench(
    quick: Annotated[bool, typer.Option(help="A tenth of the work: to see that it runs, not for figures.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"A part, or several: {', '.join(_NAMES)}.")] = None,
    to: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures here, after each part; others' stay.")
    ] = None,
    rebuild_events: Annotated[int, typer.Option(min=1000, help="So long a log is rebuilt.")] = 300_000,
) -> None:
    """Measures speed; exits 1 where an aim is missed."""
    chosen = _chosen(only or ())
    size = Size(10 if quick else 1, 1 if quick else 3, rebuild_events)
    whole = Report()
    with steps() as step:
        for part in chosen:
            step(f"{part.name}: {part.about}")
            report = Report(tell=step.tell)
            part.measure(report, size)
            whole.figures += report.figures
            if to is not None:
                report.keep(to, part.name, _NAMES)
    whole.show()
    if any(figure.met is False for figure in whole.figures):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(bench)
