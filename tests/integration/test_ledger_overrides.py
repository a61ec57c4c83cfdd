"""Overrides: limits of one account, or of one user, project or key of it, beside or instead of the plan's."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from ledger_service.store.pool import Pool
from ledger_service.store.terms import TermsCache, read_terms
from tests import builders
from tests.builders import Body, completed, limit
from tests.conftest import StartLedger
from tests.servers import Ledger, eventually

Database = asyncpg.Connection


async def put(ledger: Ledger, limit_id: str = "images", account_id: str = builders.ACCOUNT, **body: Any) -> Body:
    answer = await ledger.http.put(f"/v1/accounts/{account_id}/limits/{limit_id}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def refused(ledger: Ledger, at: str = "images", /, **body: Any) -> tuple[int, list[tuple[str, str]]]:
    answer = await ledger.http.put(f"/v1/accounts/{builders.ACCOUNT}/limits/{at}", json=body)
    return answer.status_code, [(error["field"], error["rule"]) for error in answer.json().get("errors", [])]


async def listed(ledger: Ledger) -> list[Body]:
    return list((await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/limits")).json()["overrides"])


async def delete(ledger: Ledger, limit_id: str = "images", **query: str) -> httpx.Response:
    return await ledger.http.delete(f"/v1/accounts/{builders.ACCOUNT}/limits/{limit_id}", params=query)


async def maxima(ledger: Ledger, **check: Any) -> list[tuple[str, int | str]]:
    """limit_id and maximum of what a check meets now."""
    decision = await ledger.check(builders.check(dry_run=True, **check))
    return [(one["limit_id"], one["maximum"]) for one in decision["limits"]]


def until(ledger: Ledger, expected: list[tuple[str, int | str]]) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return await maxima(ledger) == expected

    return reached


def text(moment: datetime) -> str:
    return moment.isoformat()


# --- changes and reads ---


async def test_an_override_is_answered_in_full_listed_and_taken_back(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=25, thresholds=[80], selector={"provider": ["local"]}))
    stored = await put(ledger, maximum=3, reason="trial, on Eve's word")
    assert stored == {
        "account_id": builders.ACCOUNT,
        "scope_id": None,
        "limit": {
            "limit_id": "images",
            "meter": "calls",
            "scope": "account",
            "selector": {"operation": [], "provider": ["local"], "model": []},
            "window": "month",
            "maximum": 3,
            "mode": "hard",
            "thresholds": [80],
            "credit": False,
        },
        "valid_from": None,
        "valid_until": None,
        "reason": "trial, on Eve's word",
        "version": 1,
    }
    assert await listed(ledger) == [stored]
    assert await maxima(ledger) == [("images", 3)]
    again = await put(ledger, maximum=4)
    assert (again["version"], again["limit"]["maximum"]) == (2, 4)
    answer = await delete(ledger)
    assert (answer.status_code, answer.json()) == (200, {"overrides": [again]})
    assert (await maxima(ledger), await listed(ledger)) == ([("images", 25)], [])
    assert (await delete(ledger)).status_code == 404


async def test_each_change_is_an_event_and_a_refused_one_is_none(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit())
    await put(ledger, maximum=3)
    await put(ledger, maximum=5)
    assert (await refused(ledger, maximum=5, meter="cost"))[0] == 422
    await delete(ledger)
    assert (await delete(ledger)).status_code == 404
    events = await database.fetch(
        "select type, body -> 'data' -> 'limit' ->> 'maximum' as maximum, body -> 'data' ->> 'version' as version"
        " from event_log where account_id = $1 and type like 'ledger.limit_override.%' order by position",
        builders.ACCOUNT,
    )
    changed, removed = "ledger.limit_override.changed.v1", "ledger.limit_override.removed.v1"
    assert [tuple(row) for row in events] == [(changed, "3", "1"), (changed, "5", "2"), (removed, "5", "2")]


async def test_taking_back_what_is_not_there_makes_no_account(ledger: Ledger) -> None:
    await ledger.put_plan(limit())
    assert (await delete(ledger)).status_code == 404
    assert (await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage")).status_code == 404


async def test_a_decision_names_the_override_that_it_was_taken_by(ledger: Ledger) -> None:
    await ledger.set_up(limit(), limit("each", scope="user", maximum=2))
    ends = datetime.now(UTC) + timedelta(days=1)
    await put(ledger, "each", maximum=1, scope_id="ada", valid_until=text(ends))
    await put(ledger, "each", maximum=0, scope_id="ada", valid_until=text(ends))
    decision = await ledger.check(builders.check())
    whole, each = decision["limits"]
    assert "override" not in whole
    found = each["override"]
    assert (found["scope_id"], found["version"], found["valid_from"]) == ("ada", 2, None)
    assert datetime.fromisoformat(found["valid_until"]) == ends
    assert decision["denial"]["limit_id"] == "each"


# --- validity ---


async def test_an_override_holds_from_its_start_until_its_end(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=25))
    starts = datetime.now(UTC) + timedelta(seconds=1)
    ends = starts + timedelta(seconds=1)
    await put(ledger, maximum=1, valid_from=text(starts), valid_until=text(ends))
    await put(ledger, maximum=2, valid_from=text(ends), valid_until=text(ends + timedelta(seconds=1)))
    seen: list[Body] = []
    while not seen or datetime.fromisoformat(seen[-1]["decided_at"]) < ends + timedelta(seconds=1.1):
        seen.append(await ledger.check(builders.check(dry_run=True)))
        await asyncio.sleep(0.02)
    for decision in seen:
        moment = datetime.fromisoformat(decision["decided_at"])
        expected = 25 if moment < starts else 1 if moment < ends else 2 if moment < ends + timedelta(seconds=1) else 25
        assert decision["limits"][0]["maximum"] == expected, moment
    assert [maximum for maximum in (25, 1, 2) if any(one["limits"][0]["maximum"] == maximum for one in seen)] == [
        25,
        1,
        2,
    ]


async def test_overlapping_overrides_are_refused_and_touching_ones_are_not(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    day = timedelta(days=1)
    first = datetime(2030, 1, 1, tzinfo=UTC)
    await put(ledger, maximum=1, valid_from=text(first), valid_until=text(first + 2 * day))
    overlap = (422, [("valid_from", "overlap")])
    for start, end in ((None, None), (first + day, None), (None, first + day), (first - day, first + 3 * day)):
        window = {"valid_from": start and text(start), "valid_until": end and text(end)}
        assert await refused(ledger, maximum=9, **window) == overlap, window
    await put(ledger, maximum=2, valid_from=text(first + 2 * day))
    await put(ledger, maximum=3, valid_until=text(first))
    # The same start replaces, but not into its neighbour.
    assert await refused(ledger, maximum=9, valid_from=text(first), valid_until=text(first + 3 * day)) == overlap
    assert [one["limit"]["maximum"] for one in await listed(ledger)] == [3, 1, 2]
    assert await maxima(ledger) == [("images", 3)]


async def test_overlapping_overrides_from_many_hands_at_once_leave_one(start_ledger: StartLedger) -> None:
    ledgers = [await start_ledger(), await start_ledger()]
    await ledgers[0].set_up(limit())
    first = datetime(2030, 1, 1, tzinfo=UTC)
    answers = await asyncio.gather(
        *(
            ledgers[number % 2].http.put(
                f"/v1/accounts/{builders.ACCOUNT}/limits/images",
                json={"maximum": 1, "valid_from": text(first + timedelta(hours=number))},
            )
            for number in range(20)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [422] * 19
    assert len(await listed(ledgers[0])) == 1


# --- who is meant ---


async def test_a_users_own_override_goes_before_one_for_all_users(ledger: Ledger) -> None:
    await ledger.set_up(limit("each", scope="user", maximum=1))
    await put(ledger, "each", maximum=2)
    await put(ledger, "each", maximum=3, scope_id="ada")
    assert await maxima(ledger, user_id="ada") == [("each", 3)]
    assert await maxima(ledger, user_id="bob") == [("each", 2)]
    allowed = [(await ledger.check(builders.check(user_id="ada")))["allowed"] for _ in range(4)]
    assert allowed == [True, True, True, False]
    assert (await ledger.check(builders.check(user_id="bob")))["allowed"]
    assert (await delete(ledger, "each")).status_code == 200
    assert await maxima(ledger, user_id="ada") == [("each", 3)]
    assert await maxima(ledger, user_id="bob") == [("each", 1)]
    assert (await delete(ledger, "each", scope_id="ada")).status_code == 200
    assert await maxima(ledger, user_id="ada") == [("each", 1)]


@pytest.mark.parametrize("scope", ["user", "project", "api_key"])
async def test_a_limit_that_is_added_for_one_caller_is_for_that_caller_alone(ledger: Ledger, scope: str) -> None:
    await ledger.set_up(limit())
    whose = "user_id" if scope == "user" else f"{scope}_id"
    await put(ledger, "own", maximum=0, scope=scope, scope_id="x1", meter="calls", window="day")
    assert not (await ledger.check(builders.check(**{whose: "x1"})))["allowed"]
    assert (await ledger.check(builders.check(**{whose: "x2"})))["allowed"]
    others = {name: "x1" for name in ("user_id", "project_id", "api_key_id") if name != whose}
    assert (await ledger.check(builders.check(**others)))["allowed"]


async def test_one_users_own_limit_does_not_lift_the_one_that_all_share(ledger: Ledger) -> None:
    await ledger.set_up()
    await put(ledger, "cap", maximum=1, meter="calls", window="day")
    await put(ledger, "own", maximum=100, meter="calls", window="day", scope="user", scope_id="ada")
    assert [(await ledger.check(builders.check()))["allowed"] for _ in range(2)] == [True, False]


async def test_an_added_limit_counts_what_was_used_before_it_came(ledger: Ledger) -> None:
    await ledger.set_up()
    held, settled = builders.check(), builders.check()
    await ledger.check(held)
    await ledger.check(settled)
    await ledger.send(completed(settled), completed(), completed(user_id="bob"))
    await put(ledger, "own", maximum=3, scope="user", scope_id="ada", meter="calls", window="month")
    [state] = (await ledger.check(builders.check()))["limits"]
    assert (state["settled"], state["held"], state["available"]) == (2, 1, 0)


async def test_an_override_makes_a_soft_limit_hard_and_back(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1, mode="soft"))
    assert [(await ledger.check(builders.check()))["allowed"] for _ in range(2)] == [True, True]
    await put(ledger, maximum=1)
    decision = await ledger.check(builders.check())
    assert (decision["allowed"], decision["limits"][0]["mode"], decision["limits"][0]["available"]) == (
        True, "soft", -2,
    )  # fmt: skip
    await put(ledger, maximum=3, mode="hard")
    decision = await ledger.check(builders.check())
    assert (decision["allowed"], decision["limits"][0]["mode"]) == (False, "hard")
    await delete(ledger)
    assert (await ledger.check(builders.check()))["allowed"]


# --- holds that are open ---


async def test_holds_stay_while_an_override_changes_and_settle_where_they_were_placed(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=5))
    asked = [builders.check() for _ in range(3)]
    for one in asked:
        await ledger.check(one)
    await put(ledger, maximum=2)
    assert not (await ledger.check(builders.check()))["allowed"]
    state = await ledger.limit()
    assert (state["maximum"], state["settled"], state["held"], state["available"]) == (2, 0, 3, -1)
    await ledger.send(completed(asked[0]))
    assert (await ledger.release(asked[1]["operation_id"])).status_code == 200
    state = await ledger.limit()
    assert (state["settled"], state["held"], state["available"]) == (1, 1, 0)
    # Another window is another counter; the open hold is in it from the start, and leaves both.
    await put(ledger, maximum=2, window="day")
    state = await ledger.limit()
    assert (state["window"], state["settled"], state["held"]) == ("day", 1, 1)
    await ledger.send(completed(asked[2]))
    state = await ledger.limit()
    assert (state["settled"], state["held"], state["available"]) == (2, 0, 0)
    await delete(ledger)
    state = await ledger.limit()
    assert (state["window"], state["settled"], state["held"], state["available"]) == ("month", 2, 0, 3)


# --- bad input ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("maximum", "missing")),
        ({"maximum": -1}, ("maximum", "maximum_range")),
        ({"maximum": 1.5}, ("maximum", "maximum_type")),
        ({"maximum": "1"}, ("maximum", "maximum_integer")),
        ({"maximum": 1, "meter": "units"}, ("meter", "contradiction")),
        ({"maximum": 1, "scope": "user"}, ("scope", "contradiction")),
        ({"maximum": 1, "scope": "planet"}, ("scope", "enum")),
        ({"maximum": 1, "window": "fortnight"}, ("window", "enum")),
        ({"maximum": 1, "scope_id": "ada"}, ("scope_id", "contradiction")),
        ({"maximum": 1, "limit_id": "other"}, ("limit_id", "limit_id")),
        ({"maximum": 1, "thresholds": [90, 80]}, ("thresholds", "thresholds_order")),
        ({"maximum": 1, "thresholds": [True]}, ("thresholds[0]", "int_type")),
        ({"maximum": 1, "thresholds": ["80"]}, ("thresholds[0]", "int_type")),
        ({"maximum": 1, "credit": "yes"}, ("credit", "bool_type")),
        ({"maximum": 1, "credit": True}, ("credit", "credit_scope")),
        ({"maximum": 1, "selector": {"operation": ["dance"]}}, ("selector.operation[0]", "unknown_operation")),
        ({"maximum": 1, "valid_from": "2026-11-01"}, ("valid_from", "time_rfc3339")),
        ({"maximum": 1, "valid_until": "1999-01-01T00:00:00Z"}, ("valid_until", "greater_than_equal")),
        (
            {"maximum": 1, "valid_from": "2026-11-02T00:00:00Z", "valid_until": "2026-11-02T00:00:00Z"},
            ("valid_until", "validity"),
        ),
        ({"maximum": 1, "colour": "red"}, ("colour", "extra_forbidden")),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_bad_override_is_refused_by_field_and_changes_nothing(
    shared_ledger: Ledger, body: Body, expected: tuple[str, str]
) -> None:
    await shared_ledger.set_up(limit())
    assert await refused(shared_ledger, **body) == (422, [expected])
    assert (await listed(shared_ledger), await maxima(shared_ledger)) == ([], [("images", 25)])


async def test_an_added_limit_must_say_what_it_counts(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    assert await refused(ledger, "new", maximum=1) == (422, [("meter", "missing")])
    assert await refused(ledger, "new", maximum=1, meter="calls") == (422, [("window", "missing")])
    assert await refused(ledger, "new", maximum=1, meter="calls", window="day", scope_id="ada") == (
        422,
        [("scope_id", "contradiction")],
    )


# --- caches ---


async def test_every_ledger_sees_a_change_with_its_next_check(start_ledger: StartLedger) -> None:
    ledgers = [await start_ledger() for _ in range(3)]
    await ledgers[0].set_up(limit(maximum=1000))
    for number in range(12):
        changed_by = ledgers[number % 3]
        await put(changed_by, maximum=number)
        assert [await maxima(ledger) for ledger in ledgers] == [[("images", number)]] * 3
    await delete(ledgers[1])
    assert [await maxima(ledger) for ledger in ledgers] == [[("images", 1000)]] * 3
    await ledgers[2].put_plan(limit(maximum=7))
    assert [await maxima(ledger) for ledger in ledgers] == [[("images", 7)]] * 3


async def test_a_lowered_limit_is_never_passed_by_checks_that_come_after_it(start_ledger: StartLedger) -> None:
    """Checks keep both ledgers busy; what is decided after the override was answered goes by it."""
    one, other = await start_ledger(), await start_ledger()
    await one.set_up(limit(maximum=1000))
    stop = asyncio.Event()

    decisions: list[Body] = []

    async def keep_checking(ledger: Ledger) -> None:
        while not stop.is_set():
            decisions.append(await ledger.check(builders.check()))

    running = [asyncio.create_task(keep_checking(ledger)) for ledger in (one, other, one, other)]
    await eventually(lambda: len(decisions) >= 8, "checks are under way")
    await put(one, maximum=1)
    [changed] = [await other.check(builders.check())]
    stop.set()
    await asyncio.gather(*running)
    after = [decision for decision in decisions if decision["decided_at"] >= changed["decided_at"]]
    assert not any(decision["allowed"] for decision in [changed, *after])
    assert any(decision["allowed"] for decision in decisions)


async def test_accounts_keep_their_overrides_when_the_cache_makes_room(
    ledger: Ledger, writing_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a batch, too: those that were known before are still decided by."""
    monkeypatch.setattr(TermsCache, "_ENTRIES_MAX", 2)
    await ledger.put_plan(limit())
    accounts = [f"acme-{number}" for number in range(5)]
    for number, account_id in enumerate(accounts):
        await ledger.put_account(account_id)
        await put(ledger, account_id=account_id, maximum=number)
    cache = TermsCache()
    async with writing_pool.acquire() as connection:
        for known in (accounts[:2], accounts, accounts[3:], accounts[1:4]):
            terms = await read_terms(connection, known, cache, None)
            found = {account_id: [one.limit.maximum for one in terms[account_id].overrides] for account_id in known}
            assert found == {account_id: [accounts.index(account_id)] for account_id in known}


async def test_an_override_ends_by_itself_in_every_ledger(start_ledger: StartLedger) -> None:
    ledgers = [await start_ledger(), await start_ledger()]
    await ledgers[0].set_up(limit(maximum=25))
    await put(ledgers[0], maximum=1, valid_until=text(datetime.now(UTC) + timedelta(seconds=1)))
    assert [await maxima(ledger) for ledger in ledgers] == [[("images", 1)]] * 2
    for ledger in ledgers:
        await eventually(until(ledger, [("images", 25)]), "the override ends")


async def test_an_override_of_one_limit_id_has_one_scope(ledger: Ledger) -> None:
    await ledger.set_up(limit("images", maximum=5))
    own = {"meter": "calls", "window": "day", "maximum": 3, "scope": "user", "scope_id": "ada"}
    path = f"/v1/accounts/{builders.ACCOUNT}/limits/extra"
    assert (await ledger.http.put(path, json=own)).status_code == 200
    answer = await ledger.http.put(path, json={**own, "scope": "project"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "scope")
    [kept] = (await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/limits")).json()["overrides"]
    assert kept["limit"]["scope"] == "user"
