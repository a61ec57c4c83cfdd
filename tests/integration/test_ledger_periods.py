"""Periods that close: their totals never change, whatever comes later, and in the same moment."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from tests.builders import Body, adjustment, completed, limit
from tests.rebuilds import differences, everything, rebuilt
from tests.servers import Ledger, eventually

Database = asyncpg.Connection
#: Whether somebody holds the gate that closings wait for.
GATE = f"select exists (select from pg_locks where locktype = 'advisory' and objid = {7205759403792797 & 0xFFFFFFFF})"


async def close(ledger: Ledger, period: str, account_id: str | None = None, status: int = 200) -> Body:
    path = f"/v1/periods/{period}:close" if account_id is None else f"/v1/accounts/{account_id}/periods/{period}:close"
    answer = await ledger.http.put(path, json={"reason": "the books"})
    assert answer.status_code == status, answer.text
    found: Body = answer.json()
    return found


async def calls(ledger: Ledger, period: str, account_id: str = "acme") -> int:
    found: int = (await ledger.usage(account_id, period=period))["totals"]["calls"]
    return found


def of(month: int, **fields: Any) -> Body:
    return completed(time=f"2026-{month:02}-15T12:00:00Z", cost="0.04", **fields)


async def test_what_comes_late_is_booked_in_the_open_period_and_both_are_seen(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit("ever", window="lifetime", maximum=100))
    first = of(9)
    await ledger.send(first)
    said = await close(ledger, "2026-09")
    assert (said["account_id"], said["period"], said["author"], said["reason"]) == (
        None,
        "2026-09",
        "tests",
        "the books",
    )

    [change] = (await ledger.http.get("/v1/changes?type=ledger.period.closed.v1")).json()["items"]
    assert (change["author"]["name"], change["data"]["period"]) == ("tests", "2026-09-01")

    late = of(9)
    await ledger.send(late, of(10), of(8))
    voided = await ledger.http.post("/v1/adjustments", json=adjustment("void", first))

    assert voided.json()["booked_period"] == "2026-10"
    assert [await calls(ledger, f"2026-{month:02}") for month in (8, 9, 10, 11)] == [0, 1, 2, 0]
    assert (await ledger.limit("ever"))["settled"] == 3
    rows = (await ledger.usage_log())["items"]
    shown = {(row["outcome"], row["occurred_at"][:7], row.get("booked_period")): row["operation_id"] for row in rows}
    assert set(shown) == {
        ("completed", "2026-10", None),
        ("completed", "2026-09", None),
        ("completed", "2026-09", "2026-10"),
        ("completed", "2026-08", "2026-10"),
        ("adjustment", "2026-09", "2026-10"),
    }
    assert shown["completed", "2026-09", "2026-10"] == late["data"]["operation_id"]

    # The next one closes too, and the one after it takes what comes then.
    await close(ledger, "2026-10")
    await ledger.send(of(9), of(10))
    assert [await calls(ledger, f"2026-{month:02}") for month in (8, 9, 10, 11)] == [0, 1, 2, 2]

    assert await differences(database_url) == []
    before = await everything(database)
    await database.execute(
        "delete from period_closings where period = '2026-10-01'; update usage_log set booked_period = null; "
        "delete from usage_summary"
    )
    assert (await rebuilt(database_url)).replaced
    assert await everything(database) == before


async def test_one_account_closes_by_itself(ledger: Ledger, database_url: str) -> None:
    await ledger.send(of(9), of(9, account_id="apex"))
    await close(ledger, "2026-09", "acme")
    await ledger.send(of(9), of(9, account_id="apex"))
    assert (await calls(ledger, "2026-09"), await calls(ledger, "2026-10")) == (1, 1)
    assert (await calls(ledger, "2026-09", "apex"), await calls(ledger, "2026-10", "apex")) == (2, 0)
    assert await differences(database_url) == []


async def test_closing_again_changes_nothing_and_closes_all_before(ledger: Ledger) -> None:
    await ledger.send(of(6))
    first = await close(ledger, "2026-08")
    assert await close(ledger, "2026-08") == first
    assert await close(ledger, "2026-05") == first
    assert await close(ledger, "2026-07", "acme") == first
    at_once = await asyncio.gather(*(close(ledger, "2026-10", "acme") for _ in range(4)))
    assert len({one["event_id"] for one in at_once}) == 1


async def test_what_cannot_be_closed_is_refused(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.send(of(6))
    now = datetime.now(UTC)
    for period in (f"{now:%Y-%m}", f"{now + timedelta(days=40):%Y-%m}"):
        said = await close(ledger, period, status=422)
        assert (said["errors"][0]["field"], said["errors"][0]["rule"]) == ("period", "not_over")
    assert (await close(ledger, "2026-01", "nobody", status=404))["code"] == "not_found"
    for period in ("2026-13", "2026-1", "1999-01", "2026-01-01"):
        said = await close(ledger, period, status=422)
        assert (said["code"], "is written as 2026-11" in said["detail"]) == ("invalid_request", True), said
    for path in ("usage?period=11/2026", "statements/November"):
        answer = await ledger.http.get(f"/v1/accounts/acme/{path}")
        assert "period: a month in UTC is written as 2026-11" in answer.json()["detail"], answer.text
    empty = await ledger.http.put("/v1/periods/2026-01:close", json={"reason": ""})
    assert empty.status_code == 422
    assert await database.fetchval("select count(*) from period_closings") == 0


async def test_what_comes_in_the_moment_of_closing_is_before_it_or_after(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    sent = [of(month) for month in (7, 8, 9) for _ in range(10)]
    await ledger.send(*sent)
    seen: dict[str, Body] = {}
    ended = asyncio.Event()

    async def traffic(number: int) -> int:
        done = 0
        while not ended.is_set():
            account_id = ("acme", "apex")[done % 2]
            await ledger.send(*(of(7 + (number + step) % 3, account_id=account_id) for step in range(4)))
            done += 4
        return done

    async def corrections() -> None:
        for event in sent:
            answer = await ledger.http.post("/v1/adjustments", json=adjustment("rerate", event, cost="0.05"))
            assert answer.status_code == 200, answer.text

    async def closings() -> None:
        for period in ("2026-07", "2026-08", "2026-09"):
            await asyncio.sleep(0.15)
            await close(ledger, period)
            # As it is from the very moment on.
            seen[period] = (await ledger.usage(period=period))["totals"]
        await asyncio.sleep(0.15)
        ended.set()

    done = await asyncio.gather(*(traffic(number) for number in range(6)), corrections(), closings())

    for period, totals in seen.items():
        assert (await ledger.usage(period=period))["totals"] == totals, period
    total = await database.fetchval("select sum(calls) from usage_summary")
    assert total == len(sent) + sum(one for one in done if one is not None)
    # Something was booked later than its own month, and each row is where the totals have it.
    assert await database.fetchval("select count(*) from usage_log where booked_period is not null") > 0
    wrong = await database.fetch(
        """
        select account_id, period, sum(calls) as calls from (
            select account_id, period, calls from usage_summary
            union all
            select account_id, coalesce(booked_period, own_period(occurred_at)), -counted_calls(outcome, adjusted_calls)
            from usage_log
        ) booked group by account_id, period having sum(calls) <> 0
        """
    )
    assert wrong == []
    assert await differences(database_url) == []


async def test_a_close_waits_for_what_is_being_booked(ledger: Ledger, database_url: str) -> None:
    """Ingest is held up between the log and the totals: the close comes after it, and counts it."""
    await ledger.send(of(9))
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            # Ingest has passed the gate, and waits for its account.
            await holder.execute("select from accounts where account_id = 'acme' for update")
            sending = asyncio.create_task(ledger.send(of(9)))
            await eventually(lambda: holder.fetchval(GATE), "ingest passes the gate")
            closing = asyncio.create_task(close(ledger, "2026-09"))
            await asyncio.sleep(0.2)
            assert not closing.done()
        await sending
        await closing
    finally:
        await holder.close()
    assert await calls(ledger, "2026-09") == 2
    await ledger.send(of(9))
    assert (await calls(ledger, "2026-09"), await calls(ledger, "2026-10")) == (2, 1)
