"""GET /v1/usage?groups=true: what two questions answer, in one; and models, of which there are many, day by day."""

from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from contracts.usage_reports import UsageReport
from ledger_service.domain import usage_queries
from ledger_service.store import analytics
from tests.builders import ACCOUNT, Body, adjustment, at, completed, failed
from tests.servers import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVENTS: Final = 150


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(shared_ledger: Ledger) -> AsyncIterator[Ledger]:
    """Two months of several accounts; a model that was in the first alone, and one of which all was taken back."""
    random = Random(7)
    sent = [
        random.choice([completed, completed, failed])(
            account_id=random.choice([ACCOUNT, "other"]),
            model=f"m{random.randrange(9)}",
            provider=random.choice(["far", "local"]),
            cost=f"{random.randrange(1000)}.{random.randrange(10**9):09}",
            duration_ms=random.randrange(9000),
            time=(at("2026-09-20") + timedelta(minutes=random.randrange(60 * 24 * 60))).isoformat(),
        )
        for _ in range(EVENTS)
    ]
    gone = completed(model="gone", time="2026-10-20T10:00:00Z")
    sent += [gone, completed(model="past", provider="once", time="2026-10-05T10:00:00Z")]
    assert (await shared_ledger.send(*sent))["rejected"] == []
    assert (await shared_ledger.http.post("/v1/adjustments", json=adjustment("void", gone))).is_success
    yield shared_ledger


async def ask(ledger: Ledger, query: Body, **more: Any) -> Body:
    answer = await ledger.http.get("/v1/usage", params={**query, **more})
    assert answer.status_code == 200, answer.text
    UsageReport.model_validate_json(answer.content)
    body: Body = answer.json()
    return body


QUESTIONS: Final[list[Body]] = [
    {"group_by": "model", "interval": "day", "top": 3},
    {"group_by": "model", "interval": "week", "top": 2, "order_by": "calls"},
    {"group_by": "model", "interval": "month", "time_zone": "America/New_York", "from": "2026-10-01"},
    {"group_by": "provider", "interval": "day", "top": 1, "time_zone": "Europe/Berlin"},
    {"group_by": "provider,model", "interval": "day", "filter": "outcome:failed"},
    {"group_by": "model", "interval": "day", "top": 3, "account_id": ACCOUNT},
    {"group_by": "user", "interval": "week", "top": 3},
    {"group_by": "model", "interval": "week", "top": 3, "measures": "calls,duration_p50", "order_by": "duration_p50"},
    {"group_by": "model", "interval": "none", "top": 3},
    {"interval": "day"},
]


@pytest.mark.parametrize("compare", [{}, {"compare": "previous"}], ids=["alone", "compared"])
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda one: ",".join(map(str, one.values())))
async def test_groups_and_rows_are_those_of_two_questions(ledger: Ledger, question: Body, compare: Body) -> None:
    asked = {"from": "2026-10-16", "to": "2026-11-16", **question}
    found = await ask(ledger, asked, **compare, groups="true")
    rows = await ask(ledger, asked)
    groups = await ask(ledger, {**asked, "interval": "none"}, **compare)
    assert found["rows"] == rows["rows"] != []
    assert found["groups"] == groups["rows"] != []
    assert found["totals"] == groups["totals"]
    assert found.get("previous") == groups.get("previous")
    assert ("previous" in found["groups"][0]) == bool(compare)


@pytest.mark.parametrize("top", [{}, {"top": 3}], ids=["all", "first"])
@pytest.mark.parametrize("interval", ["day", "week"])
async def test_models_are_the_same_either_way(
    ledger: Ledger, interval: str, top: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"from": "2026-10-16T05:00:00Z", "to": "2026-11-16T07:00:00Z", "compare": "previous", "interval": interval}
    for group_by in ("model", "outcome,model"):
        answers = []
        for days in (0, 1000):
            monkeypatch.setattr(analytics, "FINE_DAYS_MAX", timedelta(days=days))
            answers.append(await ask(ledger, asked, group_by=group_by, order_by="units", **top))
        assert answers[0] == answers[1]
        assert answers[0]["served_from"] == "usage_daily_all"
        # What adds up to nothing has a row all the same.
        assert top or [row["cost"] for row in answers[0]["rows"] if row["group"]["model"] == "gone"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Pacific/Auckland"])
@pytest.mark.parametrize("group_by", ["model", "provider,outcome", "operation"])
async def test_days_of_a_zone_are_those_that_hours_add_up_to(
    ledger: Ledger, zone: str, group_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is left of a day's operations, and where operations are left that come to nothing."""
    asked = {"from": "2026-10-12", "to": "2026-11-15T09:00:00Z", "interval": "day", "compare": "previous"}
    for more in ({}, {"top": 2, "order_by": "calls"}, {"filter": "outcome:completed,adjustment"}):
        question = {**asked, **more, "group_by": group_by, "time_zone": zone}
        found = await ask(ledger, question)
        assert found["served_from"] == "usage_daily_all"
        with monkeypatch.context() as patched:
            patched.setattr(usage_queries, "BROKEN_FEW", -1)
            patched.setattr(usage_queries, "BROKEN_DAYS_MAX", 0)
            by_hours = await ask(ledger, question)
        assert by_hours["served_from"] == "usage_hourly_all"
        assert {**found, "served_from": ""} == {**by_hours, "served_from": ""}


@pytest.mark.parametrize("form", ["csv", "arrow"])
async def test_tables_have_no_place_for_groups(ledger: Ledger, form: str) -> None:
    query = {"from": "2026-10-16", "group_by": "model", "groups": "true", "format": form}
    answer: httpx.Response = await ledger.http.get("/v1/usage", params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "query.groups"
