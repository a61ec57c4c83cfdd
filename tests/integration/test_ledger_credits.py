"""Credit grants over HTTP: they fill a limit up, are burnt in order, lapse, roll over, and are never overdrawn."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests import builders
from tests.builders import ACCOUNT, Body, at, completed, limit
from tests.conftest import StartLedger
from tests.servers import Ledger, eventually

Database = asyncpg.Connection
#: A moment before anything of a test happens.
BEFORE = "2026-01-01T00:00:00Z"


def credit_limit(limit_id: str = "credit", **fields: Any) -> Body:
    return limit(limit_id, **{"window": "lifetime", "maximum": 0, "credit": True, **fields})


def grant(amount: Any, **fields: Any) -> Body:
    """``grant(5, expires_at="…")`` on the limit ``credit``, valid since long ago."""
    return {"limit_id": "credit", "amount": amount, "valid_from": BEFORE, **fields}


def written(moment: datetime) -> str:
    return moment.isoformat()


async def put(ledger: Ledger, grant_id: str, body: Body) -> Body:
    answer = await ledger.http.put(f"/v1/accounts/{ACCOUNT}/credit-grants/{grant_id}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def end(ledger: Ledger, grant_id: str) -> Body:
    answer = await ledger.http.delete(f"/v1/accounts/{ACCOUNT}/credit-grants/{grant_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def grants(ledger: Ledger) -> dict[str, tuple[Any, ...]]:
    """(issued, used, remaining, lapsed) by grant."""
    answer = await ledger.http.get(f"/v1/accounts/{ACCOUNT}/credit-grants")
    return {
        one["grant_id"]: (one["issued"], one["used"], one["remaining"], one["lapsed"])
        for one in answer.json()["grants"]
    }


async def admitted(ledger: Ledger, count: int, **fields: Any) -> list[bool]:
    return [(await ledger.check(builders.check(**fields)))["allowed"] for _ in range(count)]


async def available(ledger: Ledger) -> Any:
    return (await ledger.limit("credit"))["available"]


async def changes(database: Database) -> int:
    count: int = await database.fetchval(
        "select count(*) from event_log where type = 'ledger.credit_grant.changed.v1' and account_id = $1", ACCOUNT
    )
    return count


# --- what a check may use


async def test_without_credit_nothing_is_let_through_and_a_grant_lets_exactly_its_amount(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    denied = await ledger.check(builders.check())
    assert (denied["denial"]["code"], denied["denial"]["limit_id"]) == ("limit_exceeded", "credit")
    await put(ledger, "gift", grant(3))
    assert await admitted(ledger, 4) == [True, True, True, False]
    assert await grants(ledger) == {"gift": (3, 3, 0, 0)}
    await put(ledger, "more", grant(1))
    assert await admitted(ledger, 2) == [True, False]


async def test_what_was_held_too_much_is_available_at_once(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit(meter="cost", maximum="0"))
    await put(ledger, "gift", grant("1"))
    asked = builders.check(estimated_cost="0.9")
    await ledger.check(asked)
    assert await admitted(ledger, 1, estimated_cost="0.2") == [False]
    await ledger.send(completed(asked, cost="0.3"))
    assert await available(ledger) == "0.700000000"
    assert await admitted(ledger, 2, estimated_cost="0.35") == [True, True]
    assert await grants(ledger) == {"gift": ("1.000000000", "1.000000000", "0.000000000", "0.000000000")}


async def test_what_is_released_or_expires_comes_back(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    await put(ledger, "gift", grant(2))
    await ledger.check(asked := builders.check())
    await ledger.check(builders.check(ttl_seconds=1))
    assert await available(ledger) == 0
    await ledger.release(asked["operation_id"])

    async def both_are_back() -> bool:
        return bool(await available(ledger) == 2)

    await eventually(both_are_back, "the hold expires")
    assert await grants(ledger) == {"gift": (2, 0, 2, 0)}


async def test_the_decision_shows_the_limit_as_it_is_filled_up(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit(maximum=2))
    await put(ledger, "gift", grant(3))
    [state] = (await ledger.check(builders.check()))["limits"]
    assert (state["maximum"], state["settled"], state["held"], state["available"]) == (5, 0, 1, 4)
    assert (state["limit_id"], state["period"]) == ("credit", "lifetime")


async def test_an_override_may_bring_the_credit_limit(ledger: Ledger) -> None:
    await ledger.set_up()
    override = {"meter": "calls", "window": "lifetime", "maximum": 0, "credit": True}
    answer = await ledger.http.put(f"/v1/accounts/{ACCOUNT}/limits/credit", json=override)
    assert answer.status_code == 200, answer.text
    assert await admitted(ledger, 1) == [False]
    await put(ledger, "gift", grant(1))
    assert await admitted(ledger, 2) == [True, False]


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_checks_at_once_exactly_those_pass_that_the_credit_pays_for(
    start_ledger: StartLedger, processes: int
) -> None:
    ledgers = [await start_ledger() for _ in range(processes)]
    await ledgers[0].set_up(credit_limit(meter="cost", maximum="0"))
    for number, amount in enumerate(("0.4", "0.35", "0.25")):
        await put(ledgers[0], f"gift-{number}", grant(amount, priority=number))
    answers = await asyncio.gather(
        *(ledgers[at % processes].check(builders.check(estimated_cost="0.052")) for at in range(100))
    )
    assert sum(answer["allowed"] for answer in answers) == 19
    assert await available(ledgers[0]) == "0.012000000"
    assert [state[2] for state in (await grants(ledgers[0])).values()] == ["0.000000000", "0.000000000", "0.012000000"]


async def test_credit_that_is_given_while_checks_run_is_used_exactly(start_ledger: StartLedger) -> None:
    one, other = await start_ledger(), await start_ledger()
    await one.set_up(credit_limit())
    later = written(datetime.now(UTC) + timedelta(hours=1))
    given = [grant(2) if number % 2 else grant(2, expires_at=later) for number in range(10)]

    async def give() -> None:
        for number, body in enumerate(given):
            await put(one, f"gift-{number}", body)

    async def ask(ledger: Ledger) -> int:
        return sum([sum(await admitted(ledger, 1)) for _ in range(40)])

    counts = await asyncio.gather(give(), *(ask(ledger) for ledger in (one, other, one, other)))
    assert sum(filter(None, counts)) + sum(await admitted(one, 21)) == 20
    assert await available(one) == 0


# --- order, ends, rollover, debt


async def test_grants_are_burnt_by_priority_then_end(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    later = written(datetime.now(UTC) + timedelta(days=2))
    await put(ledger, "bought", grant(2))
    await put(ledger, "soon", grant(2, expires_at=later))
    await put(ledger, "first", grant(1, priority=1))
    await admitted(ledger, 2)
    assert await grants(ledger) == {"bought": (2, 0, 2, 0), "first": (1, 1, 0, 0), "soon": (2, 1, 1, 0)}


async def test_what_is_left_lapses_at_the_end_and_a_late_settlement_belongs_to_its_time(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    ends = datetime.now(UTC) + timedelta(seconds=1.5)
    await put(ledger, "short", grant(3, expires_at=written(ends)))
    held = builders.check()
    assert (await ledger.check(held))["allowed"]
    assert await available(ledger) == 2
    await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 0.05)
    assert await admitted(ledger, 1) == [False]
    assert await grants(ledger) == {"short": (3, 1, 0, 2)}
    await put(ledger, "next", grant(1))
    # Admitted while "short" paid for it; what comes later pays nothing for it.
    await ledger.send(completed(held))
    assert await grants(ledger) == {"short": (3, 1, 0, 2), "next": (1, 0, 1, 0)}
    assert await admitted(ledger, 2) == [True, False]


async def test_a_renewing_grant_keeps_what_it_may_from_month_to_month(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit(mode="soft"))
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before_last = ((first - timedelta(days=1)).replace(day=1) - timedelta(days=1)).replace(day=5)
    monthly = grant(10, valid_from=written(before_last), renews="month", rollover_maximum=4)
    await put(ledger, "monthly", monthly)
    assert await grants(ledger) == {"monthly": (30, 0, 14, 16)}
    # 3 of 10 in its first month, 12 of 14 in the second, none in this one.
    for moment, units in ((before_last + timedelta(days=1), 3), (first - timedelta(days=1), 12)):
        await ledger.send(*(completed(time=moment) for _ in range(units)))
    assert await grants(ledger) == {"monthly": (30, 15, 12, 3)}
    assert await available(ledger) == 12


async def test_debt_is_paid_by_the_next_grant(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    await put(ledger, "gift", grant(1))
    await ledger.send(completed(), completed(), completed())  # nobody asked
    assert await available(ledger) == -2
    assert await admitted(ledger, 1) == [False]
    await put(ledger, "next", grant(3, valid_from=written(datetime.now(UTC))))
    assert await grants(ledger) == {"gift": (1, 1, 0, 0), "next": (3, 2, 1, 0)}
    assert await admitted(ledger, 2) == [True, False]


async def test_what_was_used_before_there_was_any_grant_is_not_owed(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit(mode="soft"))
    assert await admitted(ledger, 3) == [True, True, True]
    await ledger.send(completed(), completed())
    assert await available(ledger) == -5
    await put(ledger, "first", grant(2, valid_from=written(datetime.now(UTC))))
    assert await available(ledger) == 2
    # Said to have begun before all that, it pays for it.
    await put(ledger, "first", grant(2))
    assert await available(ledger) == -3


# --- changing grants


async def test_a_grant_again_changes_nothing_and_a_change_is_an_event(ledger: Ledger, database: Database) -> None:
    await ledger.set_up(credit_limit(meter="cost", maximum="0"))
    first = await put(ledger, "gift", grant("1", valid_from="2026-01-01T02:00:00+02:00"))
    assert (first["version"], first["amount"], first["meter"]) == (1, "1.000000000", "cost")
    assert at("2026-01-01") == datetime.fromisoformat(first["valid_from"])
    assert await put(ledger, "gift", grant("1.00")) == first
    assert await changes(database) == 1
    second = await put(ledger, "gift", grant("2", reason="goodwill"))
    assert (second["version"], await changes(database)) == (2, 2)
    logged = await database.fetchval(
        "select body -> 'data' from event_log where type = 'ledger.credit_grant.changed.v1' order by position desc"
    )
    assert (json.loads(logged)["reason"], json.loads(logged)["amount"]) == ("goodwill", "2.000000000")
    assert await available(ledger) == "2.000000000"


async def test_an_ended_grant_keeps_what_it_was_used_for(ledger: Ledger, database: Database) -> None:
    await ledger.set_up(credit_limit())
    await put(ledger, "older", grant(2, valid_from="2025-12-01T00:00:00Z"))
    await put(ledger, "newer", grant(5))
    await admitted(ledger, 3)
    ended = await end(ledger, "newer")
    assert await end(ledger, "newer") == ended
    assert await grants(ledger) == {"older": (2, 2, 0, 0), "newer": (5, 1, 0, 4)}
    assert await admitted(ledger, 1) == [False]
    # Repeated, it stays ended; changed, it is refused.
    assert (await put(ledger, "newer", grant(5)))["ended_at"] == ended["ended_at"]
    assert await changes(database) == 3
    answer = await ledger.http.put(f"/v1/accounts/{ACCOUNT}/credit-grants/newer", json=grant(6))
    assert (answer.status_code, answer.json()["errors"][0]["rule"]) == (422, "ended")


async def test_a_grant_that_is_ended_before_it_begins_gives_nothing(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    await put(ledger, "later", grant(5, valid_from=written(soon)))
    await end(ledger, "later")
    await asyncio.sleep(0.6)
    assert await admitted(ledger, 1) == [False]


async def test_a_grant_that_shall_end_sooner_does(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    await put(ledger, "gift", grant(5))
    await admitted(ledger, 2)
    await put(ledger, "gift", grant(5, expires_at=written(datetime.now(UTC))))
    assert await grants(ledger) == {"gift": (5, 2, 0, 3)}


async def test_top_ups_leave_no_counters_behind(ledger: Ledger, database: Database) -> None:
    await ledger.set_up(credit_limit())
    later = datetime.now(UTC) + timedelta(days=1)
    for number in range(5):
        await put(ledger, f"top-up-{number}", grant(1, valid_from=written(datetime.now(UTC))))
        assert await admitted(ledger, 1) == [True]
        await put(ledger, f"gift-{number}", grant(1, expires_at=written(later - timedelta(hours=number))))
        assert await admitted(ledger, 1) == [True]
    # A settlement of today would change the stretch that goes on until the first of them ends, and no other.
    rows = await database.fetch("select * from counters where period_end > now() and period_start > '2000-01-01'")
    assert [(row["period_end"], row["held"]) for row in rows] == [(later - timedelta(hours=4), 10)]


# --- what is refused


async def refusal(ledger: Ledger, body: Body, grant_id: str = "gift") -> tuple[int, list[tuple[str, str]]]:
    answer = await ledger.http.put(f"/v1/accounts/{ACCOUNT}/credit-grants/{grant_id}", json=body)
    return answer.status_code, [(error["field"], error["rule"]) for error in answer.json().get("errors", [])]


BROKEN_RULES = [
    (grant(1, limit_id="plain"), ("limit_id", "credit_limit")),
    (grant(1, limit_id="nowhere"), ("limit_id", "credit_limit")),
    (grant(0), ("amount", "amount_range")),
    (grant(-1), ("amount", "amount_range")),
    (grant(10**15 + 1), ("amount", "amount_range")),
    (grant(1.0), ("amount", "amount_type")),
    (grant(True), ("amount", "amount_type")),
    (grant("1"), ("amount", "amount_integer")),
    (grant(1, limit_id="money"), ("amount", "money_string")),
    (grant("0", limit_id="money"), ("amount", "amount_range")),
    (grant("-0.01", limit_id="money"), ("amount", "amount_range")),
    (grant("NaN", limit_id="money"), ("amount", "money_decimal")),
    (grant("0.0000000001", limit_id="money"), ("amount", "money_decimals")),
    (grant("1000000000.01", limit_id="money"), ("amount", "amount_range")),
    (grant(1, rollover_maximum=1), ("rollover_maximum", "rollover")),
    (grant(1, renews="month", rollover_maximum=-1), ("rollover_maximum", "amount_range")),
    (grant(1, renews="month", rollover_maximum="1"), ("rollover_maximum", "amount_integer")),
    (grant(1, renews="day"), ("renews", "literal_error")),
    (grant(1, valid_from="2026-01-01"), ("valid_from", "time_rfc3339")),
    (grant(1, valid_from="1999-12-31T23:59:59Z"), ("valid_from", "greater_than_equal")),
    (grant(1, valid_from=1_800_000_000), ("valid_from", "time_rfc3339")),
    (grant(1, expires_at=BEFORE), ("expires_at", "validity")),
    (grant(1, priority=-1), ("priority", "greater_than_equal")),
    (grant(1, priority=1001), ("priority", "less_than_equal")),
    (grant(1, note="?"), ("note", "extra_forbidden")),
    (grant(10**15, renews="month"), ("amount", "granted_max")),
]


async def test_a_grant_that_breaks_a_rule_is_refused_and_names_it(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit(), limit("plain"), credit_limit("money", meter="cost", maximum="0"))
    for body, error in BROKEN_RULES:
        assert await refusal(ledger, body) == (422, [error]), body
    assert await grants(ledger) == {}
    assert await refusal(ledger, grant(1, limit_id="m/s"), "gift") == (422, [("limit_id", "string_pattern_mismatch")])
    assert await refusal(ledger, grant(1), "a b") == (422, [("path.grant_id", "string_pattern_mismatch")])


async def test_grants_that_would_make_every_check_dear_are_refused(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    monthly = grant(1, valid_from="2000-01-02T00:00:00Z", renews="month")
    assert await refusal(ledger, monthly, "monthly") == (200, [])
    assert await refusal(ledger, {**monthly, "renews": "billing_period"}, "billing") == (200, [])  # on the same days
    ending = [
        grant(1, valid_from=f"2026-01-02T00:00:{number:02}Z", expires_at=f"2026-01-03T00:00:{number:02}Z")
        for number in range(60)
    ]
    answers = [await refusal(ledger, body, f"gift-{number}") for number, body in enumerate(ending)]
    refused = [answer for answer in answers if answer != (200, [])]
    assert 0 < len(refused) < 60
    assert set(map(str, refused)) == {str((422, [("valid_from", "stretches_max")]))}


async def test_a_grant_stays_on_its_limit(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit(), credit_limit("other"))
    await put(ledger, "gift", grant(1))
    assert await refusal(ledger, grant(1, limit_id="other")) == (422, [("limit_id", "other_limit")])


async def test_no_such_grant_to_end(ledger: Ledger) -> None:
    answer = await ledger.http.delete(f"/v1/accounts/{ACCOUNT}/credit-grants/none")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_grant_is_idle_while_its_limit_is_gone(ledger: Ledger) -> None:
    await ledger.set_up(credit_limit())
    await put(ledger, "gift", grant(2))
    await admitted(ledger, 1)
    await ledger.put_plan(credit_limit(meter="units"))
    assert await grants(ledger) == {"gift": (None, None, None, None)}
    assert await admitted(ledger, 1) == [False]
    await ledger.put_plan(credit_limit())
    assert await grants(ledger) == {"gift": (2, 1, 1, 0)}
