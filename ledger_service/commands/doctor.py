"""`ledger doctor`: what is wrong with an installation, and what to do about it."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from contracts.exit_codes import ExitCode
from ledger_service.commands.database import messages, output
from ledger_service.commands.doctor_screen import details, summary, table
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.doctor.gathering import Asked, gather
from ledger_service.domain.doctor.checks import CHECKS
from ledger_service.domain.doctor.findings import Finding, Status, examine, worst

#: By the worst of all findings.
EXIT_CODES: Final = {
    Status.OK: ExitCode.DONE,
    Status.SKIPPED: ExitCode.DONE,
    Status.UNKNOWN: ExitCode.WARNINGS,
    Status.WARNING: ExitCode.WARNINGS,
    Status.FAILURE: ExitCode.FAILED,
}


def _check_names(incomplete: str) -> list[str]:
    return [one.id for one in CHECKS if one.id.startswith(incomplete)]


def doctor(
    ledger_url: Annotated[
        str | None, typer.Option(help="Of a ledger that shall be up; default: this machine's, if there is one.")
    ] = None,
    nats_monitoring: Annotated[
        str | None, typer.Option(help="NATS' monitoring, http://127.0.0.1:8222: how often JetStream syncs.")
    ] = None,
    disk: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="Whether there is room where this folder is; several times."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="A check whose finding is known and meant; several times.", autocompletion=_check_names),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not ok.")] = False,
    as_json: AsJson = False,
) -> None:
    """Looks at settings, PostgreSQL, NATS, roles, clocks, lag, disks and seals, and says what to do about each finding.

    Changes nothing, takes half a minute at most, and works on an installation that does not. Exit 0 where all is well;
    3 where there are warnings, or something cannot be looked at; 1 where something fails; 2 for wrong options.
    """
    known_names = {one.id for one in CHECKS}
    if unknown_names := sorted(set(accept or []) - known_names):
        raise typer.BadParameter(f"--accept {unknown_names[0]}: no check has this name; --json lists all")
    asked = Asked(ledger_url, nats_monitoring, tuple(disk or ()))
    screen = messages()
    with Progress(
        SpinnerColumn(), TextColumn("looking at everything"), console=screen, transient=True,
        disable=not screen.is_terminal,
    ) as progress:  # fmt: skip
        progress.add_task("")
        with _quiet_drivers():
            facts = asyncio.run(gather(asked))
    findings = examine(CHECKS, facts, accept or [])
    if as_json:
        _write(findings)
    else:
        _show([one for one in findings if not quiet or one.status not in (Status.OK, Status.SKIPPED)])
        messages().print(summary(findings))
    raise typer.Exit(EXIT_CODES[worst(findings)])


def _show(findings: list[Finding]) -> None:
    screen = output()
    if findings:
        screen.print(table(findings))
        screen.print(details(findings))


def _write(findings: list[Finding]) -> None:
    write_json(
        {
            "status": worst(findings),
            "looked_at": datetime.now(UTC),
            "findings": [asdict(one) for one in findings],
        }
    )


@contextmanager
def _quiet_drivers() -> Iterator[None]:
    """What they log about servers that are away is in the findings."""
    loud, nats_logger = structlog.get_config(), logging.getLogger("nats")
    level = nats_logger.level
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    nats_logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**loud)
        nats_logger.setLevel(level)
