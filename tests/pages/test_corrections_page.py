"""Corrections on pages: what one changes is shown before it is recorded, and is what is then recorded."""

import html
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.identifiers import uuid7
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, completed, limit, new_id
from tests.forms import form_client
from tests.pages.test_pages import made
from tests.servers import Ledger


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stocked(ledger: Ledger) -> Ledger:
    await ledger.put_plan(limit("spend", meter="cost", maximum="10.00", window="lifetime"))
    await ledger.put_account()
    return ledger


@pytest_asyncio.fixture(loop_scope="session")
async def operation_id(stocked: Ledger) -> str:
    """Of an operation that cost a dollar."""
    event = completed(cost="1.00")
    assert (await stocked.send(event))["rejected"] == []
    found: str = event["data"]["operation_id"]
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def person(stocked: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    async with form_client(stocked.url, page="/corrections", follow_redirects=True) as client:
        yield client


def typed(**fields: str) -> dict[str, str]:
    return {"adjustment_id": str(uuid7()), "account_id": ACCOUNT, "kind": "adjustment", "reason": "a gift", **fields}


async def cost_of(ledger: Ledger, operation_id: str) -> str:
    entry = (await ledger.http.get(f"/v1/usage-log/{operation_id}", params={"account_id": ACCOUNT})).json()
    cost: str = entry["comes_to"]["cost"]
    return cost


async def test_it_is_shown_then_recorded_at_a_browser(browser: Browser, stocked: Ledger, operation_id: str) -> None:
    async with visiting(browser, stocked.url) as person:
        await person.sign_in()
        page = person.page
        await person.open(f"/operations/{operation_id}?account_id={ACCOUNT}")
        await page.get_by_role("link", name="Correct it").click()
        await page.get_by_label("What", exact=True).select_option("rerate")
        await page.get_by_label("Why").fill("last year's price")
        await page.get_by_label("It shall cost").fill("$0.25")
        assert await person.axe() == []
        await page.get_by_role("button", name="Show what changes").click()
        said = await person.main()
        assert "Nothing is recorded yet" in said
        assert re.search(r"cost\s+\$1.00\s+-\$0.75\s+\$0.25", said)
        assert re.search(r"limit spend, lifetime.*settled of \$10.00\s+\$1.00\s+-\$0.75\s+\$0.25", said)
        assert await cost_of(stocked, operation_id) == "1.000000000"
        await page.set_viewport_size(NARROW)
        await page.emulate_media(color_scheme="dark")
        assert await person.axe() == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("button", name="Record it").click()
        assert "The correction is recorded" in await person.main()
        assert await cost_of(stocked, operation_id) == "0.250000000"
        await person.open(f"/corrections?account_id={ACCOUNT}")
        assert "last year's price" in await person.main()
        assert await person.axe() == []
        assert person.errors == []
        assert person.elsewhere == []


async def test_a_trial_answers_as_the_real_thing_and_leaves_nothing(stocked: Ledger, operation_id: str) -> None:
    body = {**typed(kind="void"), "reference": {"operation_id": operation_id}}
    tried = await stocked.http.post("/v1/adjustments", json=body, params={"dry_run": "true"})
    assert tried.status_code == 200
    assert await cost_of(stocked, operation_id) == "1.000000000"
    log = await stocked.http.get(f"/v1/accounts/{ACCOUNT}/usage-log", params={"outcome": "adjustment", "limit": 1000})
    assert body["adjustment_id"] not in {one["operation_id"] for one in log.json()["items"]}
    done = await stocked.http.post("/v1/adjustments", json=body)
    assert done.json() == tried.json()
    assert await cost_of(stocked, operation_id) == "0.000000000"
    again = await stocked.http.post(
        "/v1/adjustments", json={**body, "adjustment_id": new_id()}, params={"dry_run": "true"}
    )
    assert (again.status_code, again.json()["code"]) == (409, "already_voided")


async def test_sent_twice_it_counts_once(stocked: Ledger, person: httpx.AsyncClient, operation_id: str) -> None:
    form = typed(operation_id=operation_id, cost="-0.40", calls="-1", act="record")
    for _ in range(2):
        page = await person.post("/corrections/new", data=form)
        assert "The correction is recorded" in page.text
        assert await cost_of(stocked, operation_id) == "0.600000000"


async def test_a_correction_of_free_amounts_is_taken_back(stocked: Ledger, person: httpx.AsyncClient) -> None:
    form = typed(cost="-2,000.50", user_id="ada", occurred_at="2026-10-31T12:00")
    preview = await person.post("/corrections/new", data={**form, "act": "preview"})
    assert "-$2,000.50" in preview.text
    assert "<strong>2026-10</strong>" in preview.text
    assert (await person.post("/corrections/new", data={**form, "act": "record"})).status_code == 200
    of = {"account_id": ACCOUNT, "corrects_id": form["adjustment_id"]}
    asked = await person.get("/corrections/new", params=of)
    assert "take back" in asked.text
    assert 'value="rerate"' not in asked.text
    await person.post("/corrections/new", data={**typed(kind="void"), **of, "act": "record"})
    assert await cost_of(stocked, form["adjustment_id"]) == "0.000000000"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cost": "a lot"}, "cost"),
        ({"calls": "1.5"}, "calls"),
        ({"reason": "", "cost": "1"}, "reason"),
        ({"kind": "rerate", "cost_after": "-1", "operation_id": "of it"}, "cost_after"),
        ({}, "cost"),
    ],
)
async def test_a_broken_rule_is_shown_beside_what_was_typed(
    person: httpx.AsyncClient, operation_id: str, change: dict[str, str], field: str
) -> None:
    if "operation_id" in change:
        change = {**change, "operation_id": operation_id}
    wrong = await person.post("/corrections/new", data={**typed(units="3" if "cost_after" in change else ""), **change})
    assert wrong.status_code == 422
    assert re.search(rf'name="{field}"[^>]*aria-invalid="true"', wrong.text), field
    assert "This is what changes" not in wrong.text


async def test_those_of_all_accounts_are_found_by_who_what_and_when(
    stocked: Ledger, person: httpx.AsyncClient, browser: Browser
) -> None:
    for account_id, reason in (("first", "of the first"), ("second", "of the second")):
        form = typed(account_id=account_id, cost="-1", reason=reason, occurred_at="2026-01-31T12:00", act="record")
        assert (await person.post("/corrections/new", data=form)).status_code == 200
    listed = (await person.get("/corrections")).text
    assert listed.index("of the second") < listed.index("of the first")
    only = (await person.get("/corrections", params={"account_id": "first", "kind": "adjustment"})).text
    assert "of the first" in only
    assert "of the second" not in only
    today = datetime.now(UTC).date()
    for asked, is_there in (({"from": f"{today}", "until": f"{today}"}, True), ({"until": "2026-02-01"}, False)):
        assert ("of the first" in (await person.get("/corrections", params=asked)).text) is is_there
    assert "take a filter away" in (await person.get("/corrections", params={"author": "nobody"})).text
    file = re.search(r'href="(/v1/exports/usage-log[^"]*)"', listed)
    assert file is not None
    rows = (await stocked.http.get(html.unescape(file[1]))).text
    assert "of the first" in rows
    wrong = await person.get("/corrections", params={"from": "yesterday"})
    assert wrong.status_code == 422
    assert re.search(r'name="from" type="text" value="yesterday" aria-invalid="true"', wrong.text)
    bound = await made(stocked, scopes=["usage:read"], account_id="first")
    async with form_client(stocked.url, bound) as client:
        own = (await client.get("/corrections")).text
        assert "of the first" in own
        assert "of the second" not in own
    async with visiting(browser, stocked.url, viewport=NARROW, color_scheme="dark") as visitor:
        await visitor.sign_in()
        await visitor.open("/corrections")
        assert await visitor.axe() == []
        assert await visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visitor.errors == []


async def test_who_may_not_correct_may_look(stocked: Ledger, operation_id: str) -> None:
    token = await made(stocked, scopes=["usage:read"], account_id=ACCOUNT)
    async with form_client(stocked.url, token) as client:
        listed = await client.get("/corrections")
        assert listed.status_code == 200
        assert "Add free amounts" not in listed.text
        assert "Correct it" not in (await client.get(f"/operations/{operation_id}")).text
        assert (await client.get("/corrections/new")).status_code == 403
    own = await made(stocked, scopes=["admin", "usage:read"], account_id="another")
    async with form_client(stocked.url, own) as client:
        form = {**typed(operation_id=operation_id, kind="void"), "act": "record"}
        assert (await client.post("/corrections/new", data=form)).status_code == 404
    assert await cost_of(stocked, operation_id) == "1.000000000"
