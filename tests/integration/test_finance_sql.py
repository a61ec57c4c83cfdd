"""The guide to SQL: every block of it run by the role finance, against plain loops over what was sent."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from deploy.postgres.roles import FINANCE
from tests.builders import Body, adjustment, check, completed, failed, limit
from tests.servers import Ledger, as_role

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = (ROOT / "deploy/guides/finance-sql.md").read_text()
BLOCKS: Final = dict(re.findall(r"^```sql\n-- name: (\w+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))
ZONES: Final = {"acme": "Europe/Berlin", "apex": "America/Los_Angeles", "zeta": "UTC"}
SOLD: Final = Decimal("0.08")
SOLD_TO_ACME: Final = Decimal("0.07")
CONTRACT: Final = datetime(2026, 8, 1, tzinfo=UTC)
#: For all accounts; before, nobody has said.
SKETCHES: Final = {
    datetime(2026, 8, 1, tzinfo=UTC): Decimal("0.05"), datetime(2026, 9, 10, tzinfo=UTC): Decimal("0.61"),
}  # fmt: skip
JULY: Final = date(2026, 7, 1)
AUGUST: Final = date(2026, 8, 1)

Rows = list[tuple[Any, ...]]
Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True)
class Fact:
    """A row of the usage log, as whoever sent it knows it."""

    account: str
    user: str | None
    operation: str
    provider: str
    model: str
    calls: int
    units: int
    failures: int
    cost: Decimal
    at: datetime
    booked: date
    id: str = ""
    outcome: str = "completed"
    held: Decimal | None = None
    corrects: str | None = None
    error: str | None = None

    @property
    def charged(self) -> Decimal | None:
        if not self.units:
            return Decimal(0)
        if (self.operation, self.model) == ("generate", "sketch/2"):
            begun = [price for since, price in SKETCHES.items() if since <= self.at]
            return self.units * begun[-1] if begun else None
        if self.operation != "generate":
            return None
        return self.units * (SOLD_TO_ACME if self.account == "acme" and self.at >= CONTRACT else SOLD)


class History:
    """What was sent, and what it must come to."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.facts: list[Fact] = []
        self.random = Random(6)

    async def happened(self, *events: Body, held: str | None = None, booked: date | None = None) -> None:
        assert (await self.ledger.send(*events))["accepted"] == len(events)
        self.facts += [self._fact(event, held, booked) for event in events]

    def _fact(self, event: Body, held: str | None, booked: date | None) -> Fact:
        data, succeeded = event["data"], event["type"].split(".")[2] == "completed"
        at = datetime.fromisoformat(event["time"])
        return Fact(
            data["account_id"], data["user_id"], data["operation"], data["actual_provider"], data["model"],
            int(succeeded), data["quantity"] if succeeded else 0, int(not succeeded), Decimal(data["cost"]), at,
            booked or date(at.year, at.month, 1), data["operation_id"], "completed" if succeeded else "failed",
            None if held is None else Decimal(held), None, None if succeeded else data["error"]["code"],
        )  # fmt: skip

    async def corrected(self, kind: str, of: Fact, booked: date, **fields: Any) -> None:
        body = adjustment(kind, {"data": {"operation_id": of.id, "account_id": of.account}}, **fields)
        answer = await self.ledger.http.post("/v1/adjustments", json=body)
        assert answer.status_code == 200, answer.text
        added = {name: answer.json()[name] for name in ("calls", "units", "failures")}
        assert (kind == "void") == any(added.values())
        changed = replace(of, **added, cost=Decimal(answer.json()["cost"]), booked=booked, held=None)
        self.facts.append(replace(changed, id=body["adjustment_id"], outcome="adjustment", corrects=of.id))

    def random_event(self, account: str, first: datetime, days: int) -> Body:
        pick = self.random
        moment = first + timedelta(seconds=pick.randrange(days * 86_400), microseconds=pick.randrange(10**6))
        fields: Body = {
            "account_id": account, "user_id": f"user-{int(pick.paretovariate(1)) % 14}", "time": moment.isoformat(),
            "model": pick.choice(("render-1", "render-1", "sketch/2")), "quantity": pick.randint(1, 4),
            "operation": pick.choice(("generate", "generate", "edit")), "metadata": {"team": "\u0000red"},
            "actual_provider": pick.choice(("local", "local", "far")),
        }  # fmt: skip
        if pick.random() < 0.15:
            return failed(cost=pick.choice(("0", "0.010000001")), **fields)
        return completed(cost=f"{pick.randrange(1, 10**9)}e-9", **fields)


async def _used(ledger: Ledger) -> History:
    """Three customers, three months, corrections, late arrivals, holds in every state."""
    history = History(ledger)
    await ledger.put_plan(limit("spend", meter="cost", window="lifetime", maximum="1000"), limit("none", maximum=10**6))
    for account, zone in ZONES.items():
        await ledger.put_account(account, time_zone=zone)
        for month in (7, 8, 9):
            if (account, month) == ("zeta", 8):
                continue  # a month without usage
            first = datetime(2026, month, 1, tzinfo=UTC)
            await history.happened(*(history.random_event(account, first, 30) for _ in range(40)))
    # Midnight in one zone is not midnight in the other.
    times = ("2026-08-31T21:59:59.999999+00:00", "2026-08-31T22:00:00+00:00", "2026-09-30T22:00:00+00:00")
    await history.happened(*(completed(time=time, cost="0.5") for time in times))
    in_july = [one for one in history.facts if one.account == "acme" and one.booked == JULY and one.calls]
    await history.corrected("void", in_july[0], JULY)
    await history.corrected("rerate", in_july[1], JULY, cost="0.000000001")
    closed = await ledger.http.put("/v1/accounts/acme/periods/2026-07:close", json={"reason": "invoiced"})
    assert closed.status_code == 200, closed.text
    late = completed(time="2026-07-31T23:00:00+00:00", cost="1.25")
    await history.happened(late, booked=AUGUST)
    await history.corrected("rerate", in_july[2], AUGUST, cost="9")
    bad = next(one for one in history.facts if one.outcome == "failed" and one.cost and one.account == "apex")
    await history.corrected("rerate", bad, bad.booked, cost="0")
    for estimate, cost in (("0.1", "0.04"), ("0.1", "0.25"), ("0.1", "0")):
        asked = check(estimated_cost=estimate)
        assert (await ledger.check(asked))["allowed"]
        outcome = failed if cost == "0" else completed
        await history.happened(outcome(asked, cost=cost, time="2026-09-15T12:00:00+00:00"), held=estimate)
    opened, released = check(estimated_cost="0.3"), check(estimated_cost="0.2")
    for one in (opened, released):
        assert (await ledger.check(one))["allowed"]
    await ledger.release(released["operation_id"])
    assert not (await ledger.check(check(estimated_cost="2000")))["allowed"]
    return history


# --- the oracle: what each block must answer


def _grouped(facts: Iterable[Fact], key: Callable[[Fact], Any]) -> dict[Any, list[Fact]]:
    groups = defaultdict(list)
    for one in facts:
        groups[key(one)].append(one)
    return groups


def _amounts(facts: list[Fact]) -> tuple[int, int, int, Decimal]:
    counts = [sum(getattr(one, name) for one in facts) for name in ("calls", "units", "failures")]
    return counts[0], counts[1], counts[2], _cost(facts)


def _cost(facts: Iterable[Fact]) -> Decimal:
    return sum((one.cost for one in facts), Decimal(0))


def _cost_per_customer_and_month(facts: list[Fact]) -> Rows:
    groups = _grouped(facts, lambda one: (one.account, one.booked))
    return [(*key, *_amounts(rows), key == ("acme", JULY)) for key, rows in sorted(groups.items())]


def _cost_by_local_day(facts: list[Fact]) -> Rows:
    mine = [one for one in facts if one.account == "acme"]
    days = _grouped(mine, lambda one: one.at.astimezone(ZoneInfo("Europe/Berlin")).date())
    return [(day, _cost(rows)) for day, rows in sorted(days.items()) if (day.year, day.month) == (2026, 9)]


def _margin_by_model(facts: list[Fact]) -> Rows:
    found = []
    for key, rows in _grouped(facts, lambda one: (one.operation, one.provider, one.model)).items():
        priced = [one for one in rows if one.charged is not None]
        others = [one for one in rows if one.charged is None]
        revenue = sum((one.charged or Decimal(0) for one in priced), Decimal(0)) if priced else None
        cost = _cost(priced) if priced else None
        margin = None if revenue is None or cost is None else revenue - cost
        percent = None if not revenue or margin is None else round(100 * margin / revenue, 1)
        units = sum(one.units for one in rows)
        left = (sum(one.units for one in others), _cost(others)) if others else (None, None)
        found.append((*key, units, revenue, cost, margin, percent, *left))
    return sorted(found, key=lambda row: (row[6] is None, -(row[6] or 0), *row[:3]))


def _top_ten_users(facts: list[Fact]) -> Rows:
    groups = _grouped((one for one in facts if one.at.month == 9), lambda one: (one.account, one.user))
    rows = [(*key, sum(one.calls for one in rows), _cost(rows)) for key, rows in groups.items()]
    assert len(rows) > 10
    return sorted(rows, key=lambda row: (-row[3], row[0], row[1]))[:10]


def _growth(facts: list[Fact]) -> Rows:
    cost = {key: _cost(rows) for key, rows in _grouped(facts, lambda one: (one.account, one.booked)).items()}
    found: Rows = []
    for (account, month), now in sorted(cost.items()):
        before = cost.get((account, month.replace(month=month.month - 1)), Decimal(0))
        found.append((account, month, now, before, round(100 * (now - before) / before, 1) if before else None))
    return found


def _failed_but_billed(facts: list[Fact]) -> Rows:
    back = _grouped(facts, lambda one: one.corrects)
    rows = [
        (one.account, one.id, one.provider, one.model, one.error, one.cost, _cost(back[one.id]))
        for one in facts
        if one.outcome == "failed" and one.cost
    ]
    assert any(row[-1] for row in rows)
    return sorted(rows, key=lambda row: (-row[5], row[1]))


def _holds_versus_actual(_: list[Fact]) -> Rows:
    sixth = Decimal("0.1")
    return [
        ("local", "render-1", "held", 1, Decimal("0.3"), None, None, 0),
        ("local", "render-1", "released", 2, Decimal("0.3"), Decimal(0), -sixth, 0),
        ("local", "render-1", "settled", 2, 2 * sixth, Decimal("0.29"), Decimal("0.09"), 1),
    ]


ORACLES: Final = {
    "cost_per_customer_and_month": _cost_per_customer_and_month,
    "cost_by_local_day": _cost_by_local_day,
    "margin_by_model": _margin_by_model,
    "top_ten_users": _top_ten_users,
    "growth": _growth,
    "failed_but_billed": _failed_but_billed,
    "holds_versus_actual": _holds_versus_actual,
}


async def test_every_block_of_the_guide_answers_what_was_sent(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    history = await _used(ledger)
    for since, price in SKETCHES.items():
        body = {"valid_from": since.isoformat(), "unit_price": str(price)}
        assert (await ledger.http.put("/v1/resale-prices/generate/sketch/2", json=body)).status_code == 200
    await _run_commands(ledger, tmp_path)
    assert BLOCKS.keys() - ORACLES.keys() == {"dictionary"}
    finance = await asyncpg.connect(as_role(database_url, FINANCE))
    try:
        assert len(await finance.fetch(BLOCKS["dictionary"])) > 100
        # The guide says the zone of its times; a tool's own changes nothing.
        await finance.execute("set timezone = 'Asia/Tokyo'")
        for name, oracle in ORACLES.items():
            answered = [_plain(row) for row in await finance.fetch(BLOCKS[name])]
            assert answered == oracle(history.facts), name
            assert answered, name
        wrong = "revenue <> units * unit_price or is_own_price <> (unit_price = 0.07) or margin <> revenue - cost"
        assert await finance.fetchval(f"select count(*) from margin where units <> 0 and is_priced and ({wrong})") == 0
        assert await finance.fetchval("select count(*) from margin where is_own_price") > 10
        # Sums of what is booked are those of statements.
        sums = [
            await finance.fetchval(
                f"select sum(cost) from {view} where account_id = 'acme' and booked_month = '2026-08-01'"
            )
            for view in ("usage_log", "usage_summary", "margin")
        ]
        statement = (await ledger.http.get("/v1/accounts/acme/statements/2026-08")).json()
        assert {str(one) for one in sums} == {statement["total"]["cost"]}
    finally:
        await finance.close()


def _plain(row: "asyncpg.Record") -> tuple[Any, ...]:
    return tuple(str(value) if type(value).__name__ == "UUID" else value for value in row)


async def _run_commands(ledger: Ledger, folder: Path) -> None:
    token = folder / "dev-token"
    token.write_text(ledger.http.headers["Authorization"].removeprefix("Bearer "))
    [_, script] = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    script = script.replace("curl -sS", "curl -sS --fail-with-body").replace(".data/dev-token", str(token))
    shell = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", script.replace("localhost:8001", ledger.url), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await asyncio.wait_for(shell.communicate(), 30)
    assert shell.returncode == 0, printed


# --- the views themselves


async def test_every_view_and_column_has_its_meaning_in_the_database(database: Database) -> None:
    rows = await database.fetch(
        """
        select c.relname, a.attname
        from pg_class c
        left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'finance'::regnamespace and c.relkind in ('v', 'm', 'r', 'p', 'f')
          and (coalesce(col_description(c.oid, a.attnum), '') = '' or coalesce(obj_description(c.oid), '') = '')
        """
    )
    assert [tuple(row) for row in rows] == []


async def test_views_and_columns_are_those_that_were_promised(database: Database) -> None:
    """New ones are added to the list, at the end of their view; a line that has to change is a broken promise."""
    promised = (Path(__file__).parent / "finance_columns.txt").read_text().splitlines()
    rows = await database.fetch(
        """
        select format('%s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod))
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = 'finance'::regnamespace
        order by c.relname, a.attnum
        """
    )
    assert [row[0] for row in rows] == promised


async def test_an_operation_without_account_plan_or_price_is_seen(ledger: Ledger, database_url: str) -> None:
    await ledger.send(completed(account_id="stray", cost="0.000000001", metadata={"team": "red"}))
    finance = await asyncpg.connect(as_role(database_url, FINANCE))
    try:
        [row] = await finance.fetch("select cost, metadata ->> 'team', month_local = month_utc from usage_log")
        assert tuple(row) == (Decimal("1e-9"), "red", True)
        assert await finance.fetchval("select is_registered from accounts") is False
        [row] = await finance.fetch("select is_priced, revenue, margin, unit_price from margin")
        assert tuple(row) == (False, None, None, None)
    finally:
        await finance.close()


async def test_a_statement_that_takes_too_long_is_cancelled(database_url: str) -> None:
    finance = await asyncpg.connect(as_role(database_url, FINANCE))
    try:
        # Sessions begin with a minute: see test_database_roles.
        await finance.execute("set statement_timeout = '50ms'")
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await finance.fetch("select count(*) from usage_log, generate_series(1, 1000000000)"
                                " union all select count(*) from generate_series(1, 1000000000)")  # fmt: skip
    finally:
        await finance.close()


async def test_a_nul_in_one_events_metadata_fails_nobodys_query(ledger: Ledger, database_url: str) -> None:
    await ledger.send(completed(metadata={"team": "red"}), completed(metadata={"team": "blue", "note": "a\u0000b"}))
    connection = await asyncpg.connect(as_role(database_url, FINANCE))
    try:
        rows = await connection.fetch("select metadata ->> 'team' as team from finance.usage_log order by 1")
    finally:
        await connection.close()
    assert [row["team"] for row in rows] == ["blue", "red"]
