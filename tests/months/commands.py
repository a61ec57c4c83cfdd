"""The same figures by SQL, by the `ledger` command, beside invoices, and while months lie in files."""

import csv
import io
import json
from collections import defaultdict
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import asyncpg

from deploy.postgres.roles import FINANCE
from tests.commands import ledger_command
from tests.months.asking import Asking, figures, total_of
from tests.months.book import ZERO, Entry, Sums, add_up, by, following
from tests.months.history import ZONES, History
from tests.servers import as_role

_SUMS: Final = "sum(calls)::int, sum(units)::int, sum(failures)::int, sum(cost)::numeric(38, 9)"
MAPPING: Final = """
provider: PROVIDER
source: https://example.org
read_on: 2026-11-23
rows: ROWS
currency: USD
time_zone: ZONE
time_of: end
decimal_separator: ","
thousands_separator: "."
delimiter: ";"
columns: {time: Tag, model: Modell, amount: Betrag}
"""


async def views(history: History, database_url: str) -> None:
    """The schema finance, as its role reads it."""
    connection = await asyncpg.connect(as_role(database_url, FINANCE))
    try:
        await _views(history, connection)
    finally:
        await connection.close()


async def _views(history: History, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    entries = history.book.entries

    async def sums(view: str, *names: str, where: str = "true") -> dict[object, Sums]:
        columns = ", ".join(names)
        rows = await connection.fetch(f"select {columns}, {_SUMS} from finance.{view} where {where} group by {columns}")
        return {tuple(row)[: len(names)]: Sums(*tuple(row)[len(names) :]) for row in rows}

    def local(one: Entry) -> date:
        return one.at.astimezone(ZoneInfo(history.zones.get(one.account, "UTC"))).date()

    booked = by(entries, lambda one: (one.account, one.booked))
    assert await sums("usage_log", "account_id", "booked_month") == booked
    summary = await sums("usage_summary", "account_id", "booked_month")
    assert {key: one for key, one in summary.items() if key in booked} == booked
    assert all(one == Sums() for key, one in summary.items() if key not in booked)
    assert await sums("usage_log", "account_id", "month_utc") == by(entries, lambda one: (one.account, one.own_month))
    assert await sums("usage_log", "account_id", "day_local", "month_local") == by(
        entries, lambda one: (one.account, local(one), local(one).replace(day=1))
    )
    assert await sums("usage_log", "account_id", where="is_late") == by(
        [one for one in entries if one.section() == "late"], lambda one: (one.account,)
    )
    corrections = [one for one in entries if one.outcome == "adjustment"]
    assert await sums("corrections", "account_id", "kind", "booked_month") == by(
        corrections, lambda one: (one.account, one.kind, one.booked)
    )
    rows = await connection.fetch("select account_id, booked_month, is_closed from finance.usage_summary")
    assert all(history.book.is_closed(row["account_id"], row["booked_month"]) == row["is_closed"] for row in rows)
    rows = await connection.fetch("select operation_id::text as id, revenue, margin, cost from finance.margin")
    assert len(rows) == len(entries)
    found = {row["id"]: (row["revenue"], row["margin"], row["cost"]) for row in rows}
    for one in entries:
        price = _sold(history, one)
        revenue = ZERO if not one.sums.units else None if price is None else price * one.sums.units
        margin = None if revenue is None else revenue - one.sums.cost
        assert found[one.id] == (revenue, margin, one.sums.cost), one


def _sold(history: History, one: Entry) -> Decimal | None:
    if (one.operation, one.model) != ("generate", "render-1") or one.at.astimezone(UTC).date() < history.months[0]:
        return None
    own = one.account == "acme" and one.at.astimezone(UTC).date() >= history.months[1]
    return Decimal("0.070000001") if own else Decimal("0.08")


# --- the command


async def command(database_url: str, *arguments: str, wanted: int = 0) -> str:
    done = await ledger_command(database_url, *arguments)
    assert done.exit_code == wanted, f"{arguments}: {done.output}"
    return done.stdout


async def commands(asking: Asking, database_url: str, folder: Path, accounts: int) -> None:
    """Of so many of them: each command opens the database anew."""
    history, pick = asking.history, asking.random
    for account in pick.sample(history.accounts, accounts):
        month = f"{pick.choice(history.months):%Y-%m}"
        path = f"/v1/accounts/{account}/statements/{month}"
        assert json.loads(await command(database_url, "statement", account, month, "--json")) == await asking.json(path)
        for name in ("json", "csv", "html", "pdf"):
            file = folder / f"{account}-{month}.{name}"
            await command(database_url, "statement", account, month, "--format", name, "--output", str(file))
            assert file.read_bytes() == (await asking.get(path, format=name)).content
        file = folder / f"{account}.jsonl"
        told = await command(database_url, "export", str(file), "--account", account, "--json")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert total_of([figures(row) for row in rows]) == add_up(asking.of(account))
        assert json.loads(told)["rows"] == len(rows)
    closings = [json.loads(line) for line in (await command(database_url, "periods", "list", "--json")).splitlines()]
    assert max((one["period"] for one in closings if one["account_id"] is None), default=None) == (
        f"{history.book.closed[None]:%Y-%m}" if None in history.book.closed else None
    )
    assert json.loads(await command(database_url, "verify", "--json"))["rows"] == {}


async def reconciled(history: History, database_url: str, folder: Path, provider: str) -> None:
    """An invoice that says what the book says, by days or months of some zone, as a German Excel writes it."""
    pick = history.random
    rows, zone_name = pick.choice(("day", "month")), pick.choice(ZONES)
    zone, first, end = ZoneInfo(zone_name), history.months[0], following(history.months[-1])
    sums: dict[tuple[date, str], Decimal] = defaultdict(Decimal)
    for one in history.book.entries:
        cost = history.book.billed(one, provider) if one.corrects is None else None
        day = one.at.astimezone(zone).date()
        if cost is not None and first <= day < end:
            sums[day.replace(day=1) if rows == "month" else day, one.model] += cost
    mapping, invoice = folder / f"{provider}.yaml", folder / f"{provider}.csv"
    mapping.write_text(MAPPING.replace("PROVIDER", provider).replace("ROWS", rows).replace("ZONE", zone_name))

    def write(sums: dict[tuple[date, str], Decimal]) -> None:
        written = io.StringIO()
        table = csv.writer(written, delimiter=";")
        table.writerow(["Tag", "Modell", "Betrag"])
        for (day, model), cost in sums.items():
            table.writerow([day, model, f"{cost:,.9f}".translate(str.maketrans(",.", ".,"))])
        invoice.write_bytes(b"\xef\xbb\xbf" + written.getvalue().encode())

    begins, ends = (datetime.combine(day, time(), zone).isoformat() for day in (first, end))
    asked = ("reconcile", str(invoice), "--provider", provider, "--mapping", str(mapping), "--from", begins,
             "--to", ends, "--json")  # fmt: skip
    write(sums)
    told = json.loads((await command(database_url, *asked)).splitlines()[-1])["result"]
    assert Decimal(told["total"]["ours"]) == Decimal(told["total"]["theirs"]) == sum(sums.values())
    wrong = pick.choice([key for key, cost in sums.items() if cost])
    write({**sums, wrong: sums[wrong] + Decimal("1e-9")})
    *found, last = [json.loads(line) for line in (await command(database_url, *asked, wanted=1)).splitlines()]
    assert [(one["finding"]["model"], one["finding"]["difference"]) for one in found] == [(wrong[1], "0.000000001")]
    assert Decimal(last["result"]["total"]["difference"]) == Decimal("1e-9")
