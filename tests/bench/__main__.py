"""``python -m tests.bench [--quick] [--json FILE]``: all measurements, one table."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tests.bench.analytics import measure_analytics
from tests.bench.checks import measure_checks
from tests.bench.exports import measure_exports
from tests.bench.growth import measure_growth
from tests.bench.history import History, fill_history, kept_server
from tests.bench.images import measure_images
from tests.bench.ingest import measure_ingest
from tests.bench.machine import servers
from tests.bench.operations import measure_operations
from tests.bench.reads import measure_reads
from tests.bench.rebuild import measure_rebuild
from tests.bench.report import Report, steps
from tests.bench.seals import measure_sealed_ingest, measure_verification
from tests.bench.workload import make_accounts


def bench(
    quick: Annotated[bool, typer.Option(help="A tenth of the work: to see that it runs, not for figures.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    rebuild_events: Annotated[int, typer.Option(min=1000, help="So long a log is rebuilt.")] = 300_000,
    only_rebuild: Annotated[bool, typer.Option("--only-rebuild", help="Measure nothing but the rebuild.")] = False,
) -> None:
    """Measures speed; exits 1 where an aim is missed."""
    scale, repeats = (10, 1) if quick else (1, 3)
    report = Report()
    with steps() as step:

        def rebuild() -> None:
            with servers() as made:
                step("rebuild: making 10,000 accounts")
                asyncio.run(make_accounts(made.database_url))
                number = rebuild_events // scale
                step(f"rebuild: {number:,} events")
                measure_rebuild(made, report, number)

        if not only_rebuild:
            measure_all_else(report, step, scale, repeats)
        rebuild()
    report.show()
    if json is not None:
        json.write_text(report.as_json())
    if any(figure.met is False for figure in report.figures):
        raise typer.Exit(1)


def measure_all_else(report: Report, step: Callable[[str], None], scale: int, repeats: int) -> None:
    """Everything but the rebuild."""
    step("starting PostgreSQL and NATS, making 10,000 accounts")
    with servers() as made:
        asyncio.run(make_accounts(made.database_url))
        step("ingest")
        measure_ingest(made, report, 100_000 // scale, repeats)
        step("limit checks")
        measure_checks(made, report, 12_000 // scale, repeats)
        step("ingest while the log is sealed")
        measure_sealed_ingest(made, report, 100_000 // scale, repeats)
        step("operations of the image service")
        measure_operations(made, report, 6_000 // scale, repeats)
    step("a million rows sealed and verified")
    with servers() as made:
        measure_verification(made, report, 1_000_000 // scale)
    step("limit checks with a thousand times as much in the database")
    with servers() as made:
        asyncio.run(make_accounts(made.database_url))
        measure_growth(made, report, 1_000, 1_000_000 // scale, 12_000 // scale, repeats)
    step("usage summary at one thousand and one million log rows")
    with servers() as made:
        asyncio.run(make_accounts(made.database_url, count=100))
        measure_reads(made, report, 1_000, 1_000_000 // scale, repeats)
    with tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder, servers() as made:
        step("a history of 18 months")
        with kept_server(Path(folder) / "postgres") as history:
            fill_history(history.url, History(300_000 // scale))
            step("analytics")
            measure_analytics(history.url, made.nats_url, report, repeats)
            step("exports")
            measure_exports(history.url, report, repeats=repeats)
    step("image service")
    measure_images(report, 2_000 // scale)


if __name__ == "__main__":
    typer.run(bench)
