"""The usage summary in one statement: the same as read statement by statement, and of one snapshot."""

from datetime import UTC, datetime

import pytest

from contracts.subjects import POSITION_HEADER
from ledger_service.api import usage as usage_api
from tests import builders
from tests.builders import ACCOUNT, Body, at, completed, limit
from tests.integration.test_ledger_moments import write_row, writing
from tests.servers import Ledger

USAGE = f"/v1/accounts/{ACCOUNT}/usage"
GRANTS = f"/v1/accounts/{ACCOUNT}/credit-grants"
YEAR = datetime.now(UTC).year


async def statement_by_statement(ledger: Ledger, **query: str) -> Body:
    """A demanded position is waited for in a transaction."""
    return await ledger.usage(min_position="3", **query)


async def an_account_with_limits_of_all_kinds(ledger: Ledger) -> None:
    limits = [limit(f"{window}ly", window=window, maximum=50) for window in ("hour", "day", "month")]
    await ledger.set_up(
        *limits, limit("billed", window="billing_period"), limit("ever", window="lifetime", meter="cost", maximum="9"),
        limit("users", scope="user"), limit("credit", credit=True, window="lifetime", maximum=0),
        time_zone="America/New_York", billing_anchor="2026-01-31",
    )  # fmt: skip
    for day in (at("2026-10-05"), at("2026-10-31"), at("2026-11-01")):
        assert (await ledger.send(completed(time=day, cost="0.5")))["rejected"] == []
    grant = {"limit_id": "credit", "amount": 5, "valid_from": "2026-01-01T00:00:00Z"}
    assert (await ledger.http.put(f"{GRANTS}/g", json=grant)).status_code == 200
    assert (await ledger.check(builders.check(estimated_cost="0.04")))["allowed"]


@pytest.mark.parametrize("query", [{}, {"period": "2026-10"}, {"period": "2026-11"}, {"period": f"{YEAR + 1}-01"}])
async def test_one_statement_answers_as_many_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    await an_account_with_limits_of_all_kinds(ledger)
    expected = await statement_by_statement(ledger, **query)
    assert {state["limit_id"] for state in expected["limits"]} >= {"hourly", "billed", "ever", "credit"}
    assert await ledger.usage(**query) == expected
    # Without the credit, nothing has to be looked up by its key.
    await ledger.put_plan(*(limit(f"{window}ly", window=window) for window in ("hour", "month", "lifetime")))
    expected = await statement_by_statement(ledger, **query)
    monkeypatch.delattr(usage_api, "reading")
    assert await ledger.usage(**query) == expected


async def test_terms_that_changed_are_read_again(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=5))
    assert (await ledger.limit())["maximum"] == 5
    override = {"maximum": 7, "reason": "asked for"}
    assert (await ledger.http.put(f"/v1/accounts/{ACCOUNT}/limits/images", json=override)).status_code == 200
    assert (await ledger.limit())["maximum"] == 7
    assert (await ledger.http.delete(f"/v1/accounts/{ACCOUNT}/limits/images")).status_code == 200
    await ledger.put_plan(limit(maximum=9))
    assert (await ledger.limit())["maximum"] == 9
    await ledger.put_plan(limit(maximum=11), plan_id="other")
    await ledger.put_account(plan_id="other")
    assert (await ledger.limit())["maximum"] == 11


async def test_its_position_is_that_of_what_it_shows(
    ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.set_up(limit())
    await ledger.usage()
    monkeypatch.delattr(usage_api, "reading")
    async with writing(database_url) as writer:
        running = await write_row(writer)
        during = await ledger.http.get(USAGE)
        assert int(during.headers[POSITION_HEADER]) < running
        await writer.execute("commit")
    after = await ledger.http.get(USAGE)
    assert int(after.headers[POSITION_HEADER]) >= running
    assert datetime.fromisoformat(after.headers["Ledger-Read-At"]) > datetime.fromisoformat(
        during.headers["Ledger-Read-At"]
    )
