"""Backtests replay corrections where they were recorded: limits honoured them, and so does a proposal."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests import builders
from tests.builders import Body, completed, limit
from tests.integration.test_ledger_backtest import request, result_of
from tests.servers import Ledger


async def used(ledger: Ledger, **fields: Any) -> Body | None:
    """An operation that ran from its check to its outcome; None where it was denied."""
    asked = builders.check(estimated_cost="0.30", **fields)
    if not (await ledger.check(asked))["allowed"]:
        return None
    event = completed(asked, cost="0.30")
    assert (await ledger.send(event))["accepted"] == 1
    return event


async def correct(ledger: Ledger, kind: str, of: Body | None = None, **fields: Any) -> None:
    answer = await ledger.http.post("/v1/adjustments", json=builders.adjustment(kind, of, **fields))
    assert answer.status_code == 200, answer.text


async def denied(ledger: Ledger, since: datetime, *limits: Body, until: datetime | None = None) -> int:
    window = {"from": since.isoformat(), "to": (until or since + timedelta(hours=1)).isoformat()}
    found = await result_of(ledger, request(*limits, **window))
    number: int = found["total"]["would_deny"]
    return number


async def test_the_plan_that_was_live_denies_nothing_though_a_void_made_room(ledger: Ledger) -> None:
    live = [limit(maximum=2, window="lifetime"), limit("spend", meter="cost", maximum="0.60", window="month")]
    await ledger.set_up(*live)
    since = datetime.now(UTC)
    first, second = await used(ledger), await used(ledger)
    assert first
    assert second
    assert await used(ledger) is None
    await correct(ledger, "void", first)
    third = await used(ledger)
    assert third
    await correct(ledger, "adjustment", calls=-1, cost="-0.10", user_id="ada")
    await correct(ledger, "rerate", second, cost="0.10")
    assert await used(ledger)
    assert await used(ledger) is None
    assert await denied(ledger, since, *live) == 0
    # A tighter one denies the second, so that its re-rating makes no room for the fourth; the void of the first makes
    # some for the third. With less than one costs, only the free amount lets one in.
    assert await denied(ledger, since, limit("spend", meter="cost", maximum="0.30", window="month")) == 2
    assert await denied(ledger, since, limit("spend", meter="cost", maximum="0.20", window="month")) == 3


async def test_what_the_proposal_denies_is_not_taken_back(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=100))
    since = datetime.now(UTC)
    first, second = await used(ledger), await used(ledger)
    assert first
    assert second
    await correct(ledger, "void", second)
    assert await used(ledger)
    # One at a time: the second is denied, its void makes no room for the third.
    assert await denied(ledger, since, limit(maximum=1)) == 2
    await correct(ledger, "void", first)
    assert await used(ledger)
    assert await denied(ledger, since, limit(maximum=1)) == 2


async def test_a_correction_counts_from_when_it_was_recorded(ledger: Ledger) -> None:
    """Of what was used before the window too: not yet when the window begins, and only for whom and what it was."""
    await ledger.set_up(limit(maximum=100))
    early = await used(ledger, user_id="bob")
    assert early
    since = datetime.now(UTC)
    assert await used(ledger, user_id="bob")
    before_it = datetime.now(UTC)
    await correct(ledger, "void", early)
    assert await used(ledger, user_id="bob")
    assert await used(ledger, user_id="eve")
    one, own = limit(maximum=1), limit(maximum=1, scope="user")
    # The first of the window finds the early one, the second the void of it, the third the second.
    assert await denied(ledger, since, one) == 2
    assert await denied(ledger, since, one, until=before_it) == 1
    assert await denied(ledger, since, own) == 1
    # What was recorded before the window begins is in what was used by then.
    assert await denied(ledger, datetime.now(UTC), one) == 0
    other = limit(maximum=1, selector={"model": ["another"]})
    assert await denied(ledger, since, other) == 0
