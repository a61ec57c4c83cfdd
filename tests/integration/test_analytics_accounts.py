"""GET /v1/usage by account, of all of them: months find the first ones, and the answer is what the log says."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import pytest_asyncio

from ledger_service.archiving import Progress, alone, archive
from tests.builders import Body, adjustment, at, completed, failed
from tests.servers import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCOUNTS: Final = [f"account-{number}" for number in range(12)]
WHOLE: Final = {"from": "2026-09-01", "to": "2026-10-01"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(shared_ledger: Ledger) -> AsyncIterator[Ledger]:
    """Three months, closed one after another while more comes for them, for all accounts or for some; corrections; an
    account of which all was taken back, and one that has nothing but what was late."""
    random = Random(11)

    def some(month: int, count: int) -> list[Body]:
        begin = at(f"2026-{month:02}-01")
        return [
            random.choice([completed, completed, failed])(
                account_id=random.choice(ACCOUNTS),
                model=f"m{random.randrange(3)}",
                provider=random.choice(["far", "local"]),
                quantity=random.randrange(1, 4),
                cost=f"{random.randrange(1000)}.{random.randrange(10**9):09}",
                time=(begin + timedelta(minutes=random.randrange(60 * 24 * 30))).isoformat(),
            )
            for _ in range(count)
        ]

    async def close(period: str, account_id: str | None = None) -> None:
        of = "" if account_id is None else f"/accounts/{account_id}"
        answer = await shared_ledger.http.put(f"/v1{of}/periods/{period}:close", json={"reason": "the books"})
        assert answer.is_success, answer.text

    gone, zed = (completed(account_id=name, cost="1", time="2026-09-10T10:00:00Z") for name in ("gone", "zed"))
    corrected = completed(account_id=ACCOUNTS[0], cost="500", time="2026-08-31T23:30:00Z")
    await send(shared_ledger, *some(8, 60), *some(9, 120), *some(10, 60), gone, zed, corrected)
    await adjust(shared_ledger, adjustment("void", gone))
    await close("2026-08")
    await send(shared_ledger, *some(8, 30), completed(account_id="late", cost="2000", time="2026-08-10T10:00:00Z"))
    await adjust(shared_ledger, adjustment("void", corrected))
    for account_id in ACCOUNTS[:4]:
        await close("2026-09", account_id)
    await send(shared_ledger, *some(8, 10), *some(9, 30))
    yield shared_ledger


async def send(ledger: Ledger, *events: Body) -> None:
    assert (await ledger.send(*events))["rejected"] == []


async def adjust(ledger: Ledger, body: Body) -> None:
    answer = await ledger.http.post("/v1/adjustments", json=body)
    assert answer.is_success, answer.text


async def ask(ledger: Ledger, question: Body, **more: Any) -> Body:
    answer = await ledger.http.get("/v1/usage", params={"group_by": "account", "top": 3, **question, **more})
    assert answer.status_code == 200, answer.text
    body: Body = answer.json()
    return body


def said(answer: Body) -> Body:
    return {name: answer.get(name) for name in ("totals", "previous", "groups", "rows")}


QUESTIONS: Final[dict[str, Body]] = {
    "a month": WHOLE,
    "a month by days": {**WHOLE, "interval": "day"},
    "a month by hours": {**WHOLE, "interval": "hour"},
    "of a zone": {**WHOLE, "interval": "week", "time_zone": "Europe/Berlin"},
    "two months": {"from": "2026-08-01", "to": "2026-10-01", "interval": "month"},
    "months and days": {"from": "2026-07-28", "to": "2026-10-04", "interval": "week"},
    "a part of a month": {"from": "2026-09-02", "to": "2026-09-29T05:00:00Z"},
    "all that will be": {"from": "2026-09-01", "to": "2027-01-01", "interval": "month"},
    "by calls": {**WHOLE, "order_by": "calls"},
    "by failures": {**WHOLE, "order_by": "failures", "top": 14},
    "those of a provider": {**WHOLE, "filter": ["provider:far", "model:m0,m1"], "order_by": "units"},
    "everybody": {**WHOLE, "top": 50},
    "all but one": {**WHOLE, "top": 12},
    "nobody": {**WHOLE, "filter": "provider:nobody"},
}


@pytest.mark.parametrize("compare", [{}, {"compare": "previous"}], ids=["alone", "compared"])
@pytest.mark.parametrize("groups", [{}, {"groups": "true"}], ids=["rows", "groups"])
@pytest.mark.parametrize("name", QUESTIONS)
async def test_the_first_accounts_are_those_of_the_log(ledger: Ledger, name: str, groups: Body, compare: Body) -> None:
    question = {**QUESTIONS[name], **groups, **compare}
    found = await ask(ledger, question)
    told = await ask(ledger, question, as_of=datetime.now(UTC).isoformat())
    assert told["served_from"] == "usage_log"
    assert said(found) == said(told)
    # By hours, where sums do not tell whether there were others.
    assert found["served_from"] in ("usage_summary", "usage_hourly")
    if name in ("a month", "of a zone", "two months", "by calls", "all that will be") or (
        name == "everybody" and not compare
    ):
        assert found["served_from"] == "usage_summary"


@pytest.mark.parametrize(
    "question",
    [
        {**WHOLE, "group_by": "account,model"},
        {**WHOLE, "filter": "outcome:completed"},
        {**WHOLE, "filter": "account:account-1,account-2"},
        {"from": "2026-09-10", "to": "2026-09-20"},
    ],
    ids=["two dimensions", "outcomes", "some accounts", "days"],
)
async def test_what_months_do_not_have_is_read_by_hours(ledger: Ledger, question: Body) -> None:
    found = await ask(ledger, question)
    assert found["served_from"] == "usage_hourly"
    assert said(found) == said(await ask(ledger, question, as_of=datetime.now(UTC).isoformat()))


async def test_months_in_archives_are_read_by_hours(ledger: Ledger, shared_database_url: str, tmp_path: Path) -> None:
    """It is not known any more what in them came late. This test is the last: it closes the months."""
    told = {name: said(await ask(ledger, WHOLE, order_by=name)) for name in ("cost", "calls")}
    for period in ("2026-08", "2026-09"):
        assert (await ledger.http.put(f"/v1/periods/{period}:close", json={"reason": "the books"})).is_success
    async with alone(shared_database_url) as connection:
        for month in (date(2026, 8, 1), date(2026, 9, 1)):
            await archive(connection, month, tmp_path, Progress())
    for name, before in told.items():
        found = await ask(ledger, WHOLE, order_by=name)
        assert (said(found), found["served_from"]) == (before, "usage_hourly")
    later = await ask(ledger, {"from": "2026-10-01", "to": "2026-11-01"})
    assert later["served_from"] == "usage_summary"
