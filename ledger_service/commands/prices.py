"""`ledger prices …`: the price catalogue from the command line."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from contracts.money import format_nanos
from contracts.prices import Price, PriceStored
from ledger_service.commands.database import messages, moment, output, shown, stop, stop_at, with_database
from ledger_service.commands.json_output import AsJson, AsJsonLines, write_json, write_json_lines
from ledger_service.domain.price_versions import Change, Outcome
from ledger_service.price_files import PriceFile, PriceFileError, read_file, read_shipped
from ledger_service.price_loading import count, load_prices
from ledger_service.store.pool import Connection
from ledger_service.store.prices import Place, PriceFilter, list_prices

app = typer.Typer(no_args_is_help=True, help="The price catalogue: what operations cost, from when on.")

PAGE_ROWS: Final = 1000


@app.command()
def load(
    file: Annotated[Path | None, typer.Argument(help="A price file; default: the list prices shipped with it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Puts every price of a reviewed YAML file: all of it, or, where any is wrong, nothing.

    It replaces what stands, also what was put over HTTP. Loading the same file again changes nothing.
    """
    read = _read(file)
    try:
        outcomes = with_database(lambda connection: load_prices(connection, read, dry_run=dry_run))
    except PriceFileError as error:
        raise stop_at(error.errors, f"{error}; nothing was loaded") from None
    differing = [outcome for outcome in outcomes if outcome.change is not Change.UNCHANGED]
    if as_json:
        write_json(
            {
                "file": read.name,
                "dry_run": dry_run,
                "counts": count(outcomes),
                "changes": [_as_json(one) for one in differing],
            }
        )
    elif differing:
        output().print(_changes(differing))
    summary = ", ".join(f"{number} {change}" for change, number in count(outcomes).items())
    messages().print(f"{read.name}: {summary}{'; nothing was changed' if dry_run else ''}")


def _read(file: Path | None) -> PriceFile:
    try:
        return read_shipped() if file is None else read_file(file)
    except PriceFileError as error:
        raise stop_at(error.errors, f"{error}; nothing was loaded") from None
    except OSError as error:
        raise stop(f"cannot read {file}: {error.strerror or error}") from None


def _as_json(outcome: Outcome) -> dict[str, object]:
    provider, operation, model = outcome.put.key
    return {
        "change": outcome.change,
        "provider": provider,
        "operation": operation,
        "model": model,
        "price": outcome.put.price,
        "before": outcome.before.price if outcome.before else None,
        "version": outcome.after.version if outcome.after else None,
    }


def _changes(outcomes: Sequence[Outcome]) -> Table:
    table = Table("", "provider", "operation", "model", "valid from", "a unit", "before", "version")
    for put, change, before, after, _ in outcomes:
        provider, operation, model = put.key
        table.add_row(
            change.value,
            provider,
            operation,
            model,
            shown(put.price.valid_from),
            _unit_price(put.price),
            _unit_price(before.price) if before else "",
            str(after.version) if after else "",
        )
    return table


@app.command("list")
def list_(
    provider: Annotated[str | None, typer.Option(help="Of this provider only.")] = None,
    operation: Annotated[str | None, typer.Option(help="Of this operation only.")] = None,
    at: Annotated[str | None, typer.Option(help="In force at that time (2026-11-01, or RFC 3339).")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Shows the versions of all prices."""
    chosen = PriceFilter(provider, operation, moment(at))
    found = with_database(lambda connection: _all(connection, chosen))
    if as_json:
        write_json_lines(found)
        return
    table = Table("provider", "operation", "model", "valid from", "until", "a unit", "unit", "version", "put by")
    for price in found:
        table.add_row(
            price.provider,
            price.operation,
            price.model,
            shown(price.valid_from),
            shown(price.in_force_until),
            _unit_price(price),
            price.unit,
            str(price.version),
            "shipped file" if price.shipped else "administrator",
        )
    output().print(table)


async def _all(connection: Connection, chosen: PriceFilter) -> list[PriceStored]:
    found: list[PriceStored] = []
    after: Place | None = None
    while True:
        page = await list_prices(connection, chosen, after, PAGE_ROWS)
        found += page
        if len(page) < PAGE_ROWS:
            return found
        after = _place(page[-1])


def _place(price: PriceStored) -> tuple[str, str, str, datetime]:
    return price.provider, price.operation, price.model, price.valid_from


def _unit_price(price: Price) -> str:
    """``0.04``, or from the cheapest variant to the dearest: ``0.006 … 0.211``."""
    prices = [variant.price for variant in price.variants]
    ends = [format_nanos(nanos).rstrip("0").rstrip(".") for nanos in sorted({min(prices), max(prices)})]
    return " … ".join(ends)
