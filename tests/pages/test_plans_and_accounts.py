"""Pages that change plans and accounts: what is typed, what the API says to it, and who is not overwritten."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

import httpx
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from ledger_service.pages.limit_forms import fields_of, limit_of, read_rows
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, PLAN, completed, limit
from tests.forms import SAME_SITE, form_client
from tests.pages.test_pages import made
from tests.servers import Ledger

Form = dict[str, str]


@pytest_asyncio.fixture(loop_scope="session")
async def pages(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """Pages without a browser, of an administrator."""
    async with form_client(ledger.url, page="/") as client:
        yield client


def row(number: int = 0, **fields: str) -> Form:
    """A limit of a sent form."""
    given = {
        "limit_id": "images",
        "meter": "calls",
        "scope": "account",
        "window": "day",
        "maximum": "3",
        "mode": "hard",
    }
    return {f"limit-{number}-{name}": value for name, value in {**given, **fields}.items()}


async def stored(ledger: Ledger, plan_id: str) -> dict[str, object]:
    body: dict[str, object] = (await ledger.http.get(f"/v1/plans/{plan_id}")).json()
    return body


async def test_a_plan_is_made_tried_and_saved_in_a_browser(browser: Browser, ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=50))
    noon = datetime.now(UTC).replace(hour=0, minute=0, second=1) - timedelta(days=2)
    await ledger.send(*(completed(time=noon + timedelta(minutes=n), user_id="ada", cost="0.50") for n in range(8)))
    async with visiting(browser, ledger.url) as person:
        await person.sign_in()
        await person.open("/plans")
        assert await person.axe() == []
        await person.page.get_by_label("Its id").fill("small")
        await person.page.get_by_role("button", name="Make its limits").click()
        assert "There is no plan of this id yet" in await person.main()
        await person.page.get_by_label("Name").fill("Small")
        await person.page.locator("#limit-0-limit_id").fill("images")
        await person.page.select_option("#limit-0-window", "day")
        await person.page.locator("#limit-0-maximum").fill("3")
        await person.page.get_by_role("button", name="Try it", exact=True).click()
        said = await person.main()
        assert "Of 8 operations in 7 days, these limits would have denied 5, and saved $2.50 of $4.00." in said
        assert "ada" in said
        drawn = (
            "Chart.getChart(document.querySelector('canvas')).data.datasets.map(s => [s.label, Math.max(...s.data)])"
        )
        assert await person.page.evaluate(drawn) == [["limit images", 5]]
        assert await person.axe() == []
        # Nothing is stored by that; saving does.
        assert (await ledger.http.get("/v1/plans/small")).status_code == 404
        await person.page.get_by_role("button", name="Save").click()
        assert "Saved as version 1" in await person.main()
        assert (await stored(ledger, "small"))["limits"][0]["maximum"] == 3  # type: ignore[index]  # JSON
        assert (person.errors, person.elsewhere) == ([], [])
    async with visiting(browser, ledger.url, viewport=NARROW, color_scheme="dark") as person:
        await person.sign_in()
        for path in ("/plans/small", "/accounts", f"/accounts/{ACCOUNT}"):
            await person.open(path)
            assert await person.axe() == [], path
            assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


async def test_what_somebody_else_saved_is_not_overwritten(ledger: Ledger, pages: httpx.AsyncClient) -> None:
    await ledger.put_plan(limit(maximum=50), plan_id="p")
    form = {"do": "save", "version": "1", "name": "Mine", **row(maximum="7")}
    await ledger.put_plan(limit(maximum=60), plan_id="p")
    told = await pages.post("/plans/p", data=form)
    assert told.status_code == 409
    assert "has the version 2 by now, and not 1" in told.text
    assert 'name="version" value="2"' in told.text
    assert 'value="7"' in told.text  # what was typed is still there
    assert (await stored(ledger, "p"))["version"] == 2
    saved = await pages.post("/plans/p", data={**form, "version": "2"})
    assert (saved.status_code, (await stored(ledger, "p"))["name"]) == (303, "Mine")
    # Two who make the same new plan.
    assert (await pages.post("/plans/new", data={**form, "version": "0"})).status_code == 303
    assert (await pages.post("/plans/new", data={**form, "version": "0"})).status_code == 409


async def test_limits_are_added_and_removed_without_javascript_and_without_saving(
    ledger: Ledger, pages: httpx.AsyncClient
) -> None:
    form = {"version": "0", "name": "N", **row(0, limit_id="first"), **row(4, limit_id="second")}
    more = await pages.post("/plans/rows", data={**form, "do": "add"})
    assert (more.status_code, more.text.count("<fieldset")) == (200, 4)  # the plan's own, two, and a new one
    less = await pages.post("/plans/rows", data={**form, "do": "remove-0"})
    assert 'value="second"' in less.text
    assert 'value="first"' not in less.text
    assert (await ledger.http.get("/v1/plans/rows")).status_code == 404


async def test_each_broken_rule_is_shown_at_its_field(ledger: Ledger, pages: httpx.AsyncClient) -> None:
    wrong = {**row(0, maximum="many"), **row(1, limit_id="b", thresholds="80, 50"), **row(2, limit_id="c d")}
    for do in ("save", "try"):
        told = await pages.post("/plans/broken", data={"do": do, "version": "0", "name": "N", **wrong})
        assert told.status_code == 422
        for field in ("limit-0-maximum", "limit-1-thresholds", "limit-2-limit_id"):
            assert 'aria-invalid="true"' in told.text.split(f'id="{field}"')[1].split(">")[0], (do, field)
        assert 'value="many"' in told.text
    for form, said in (
        ({"do": "save", "fail_modes": "{", **row()}, "fail_modes"),
        ({"do": "try", "days": "10000", "name": "N", **row()}, "days"),
        ({"do": "try", "account_id": "a b", "name": "N", **row()}, "account_id"),
        ({"do": "try", **row()}, "name"),
    ):
        told = await pages.post("/plans/broken", data={"version": "0", **form})
        assert (told.status_code, f"<code>{said}" in told.text or f".{said}" in told.text) == (422, True), told.text
    assert (await pages.post("/plans", data={"plan_id": ""})).status_code == 422
    too_many = "&".join(f"a{number}=" for number in range(3000))
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await pages.post("/plans/broken", content=too_many, headers=kind)).status_code == 413


async def test_an_account_is_registered_and_its_overrides_and_credit_come_and_go(
    ledger: Ledger, pages: httpx.AsyncClient
) -> None:
    await ledger.put_plan(
        limit(maximum=50),
        limit("spend", meter="cost", maximum="10"),
        limit("prepaid", meter="cost", window="lifetime", maximum="0", credit=True),
        plan_id="prepaying",
    )
    path = "/accounts/registered"
    assert "not registered" in (await pages.get(path)).text

    async def do(what: str, **fields: str) -> str:
        answer = await pages.post(path, data={"do": what, **{name.replace("__", "-"): fields[name] for name in fields}})
        assert answer.status_code == 303, answer.text
        return (await pages.get(answer.headers["location"])).text

    assert "Saved" in await do("account", account__plan_id="prepaying", account__time_zone="Europe/Berlin")
    # The plan counts dollars there, so that is what 25 means.
    shown = await do("override", override__limit_id="spend", override__maximum="25", override__reason="asked for")
    assert "$25.00" in shown
    found = (await ledger.http.get(f"/v1{path}/limits")).json()["overrides"]
    assert [(one["limit"]["maximum"], one["reason"]) for one in found] == [("25.000000000", "asked for")]
    edited = await pages.get(f"{path}?edit=spend")
    assert 'name="override-maximum" type="text" value="25.00"' in edited.text
    assert "Taken back: 1" in await do("remove-override", limit_id="spend", scope_id="")
    given = {
        "credit__grant_id": "gift",
        "credit__limit_id": "prepaid",
        "credit__amount": "$1,000",
        "credit__meter": "cost",
    }
    assert "$1,000.00" in await do("credit", credit__valid_from="2026-01-01T00:00", **given)
    assert "ended" in await do("end-credit", grant_id="gift")
    assert "are closed" in await do("closing", closing__period="2026-01", closing__reason="billed")
    history = (await pages.get(path)).text
    for kind in ("settings", "override taken back", "credit", "month closed"):
        assert f"<td>{kind}</td>" in history, kind
    for fields, field in (
        ({"do": "account", "account-plan_id": "prepaying", "account-time_zone": "Mars"}, "account-time_zone"),
        ({"do": "override", "override-limit_id": "spend", "override-maximum": "x"}, "override-maximum"),
        ({"do": "override"}, "override-limit_id"),
        ({"do": "credit", "credit-grant_id": "g", "credit-limit_id": "none"}, "credit-valid_from"),
        ({"do": "closing", "closing-period": "2199-01", "closing-reason": "r"}, "closing-period"),
    ):
        told = await pages.post(path, data=fields)
        assert told.status_code == 422, told.text
        assert 'aria-invalid="true"' in told.text.split(f'id="{field}"')[1].split(">")[0], field
    assert (await pages.post(path, data={"do": "explode"})).status_code == 422


async def test_who_may_not_change_sees_no_form_and_is_refused(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    reader = await made(ledger, scopes=["usage:read-all"])
    own = await made(ledger, name="own", scopes=["usage:read", "admin"], account_id=ACCOUNT)
    async with httpx.AsyncClient(base_url=ledger.url, headers=SAME_SITE) as client:
        theirs = {"Cookie": f"{SESSION_COOKIE}={reader}"}
        for path in ("/plans", "/plans/basic", "/accounts", f"/accounts/{ACCOUNT}"):
            shown = await client.get(path, headers=theirs)
            assert (shown.status_code, 'method="post" action="/a' in shown.text) == (200, False), path
            assert (await client.post(path, data={"do": "save"}, headers=theirs)).status_code == 403
        assert (await client.get("/plans/none", headers=theirs)).status_code == 404
        # An administrator of one account changes that one alone.
        bound = {"Cookie": f"{SESSION_COOKIE}={own}"}
        assert "Save the override" in (await client.get(f"/accounts/{ACCOUNT}", headers=bound)).text
        for path in ("/accounts/another", "/plans/basic"):
            assert (await client.get(path, headers=bound)).status_code == 403
        form = {"do": "account", "account-plan_id": "basic"}
        assert (await client.post(f"/accounts/{ACCOUNT}", data=form, headers=bound)).status_code == 303


async def test_accounts_are_found_by_how_they_begin_a_page_at_a_time(ledger: Ledger, pages: httpx.AsyncClient) -> None:
    await ledger.put_plan(limit())
    for number in range(52):
        await ledger.put_account(f"shop-{number:02}")
    await ledger.put_account("shoq")
    first = await pages.get("/accounts?prefix=shop")
    assert (first.text.count("/limits?account_id=shop-"), "shoq" in first.text) == (50, False)
    assert "cursor=shop-49" in first.text
    assert (await pages.get("/accounts?prefix=shop&cursor=shop-49")).text.count("/limits?account_id=shop-") == 2


def test_a_limit_survives_the_form() -> None:
    for one in (
        limit(
            maximum=10**15, selector={"operation": ["edit"], "provider": [], "model": ["a/b", "c"]}, thresholds=[50, 80]
        ),
        limit("spend", meter="cost", maximum="0.000000001", credit=True, window="lifetime", mode="soft"),
    ):
        whole = {"scope": "account", "mode": "hard", "thresholds": [], "credit": False, **one}
        whole["selector"] = {"operation": [], "provider": [], "model": [], **one.get("selector", {})}
        sent = {f"limit-3-{name}": [value] for name, value in fields_of(whole).items()}
        assert [limit_of(fields) for fields in read_rows(sent)] == [whole]


async def test_every_account_has_its_pages_whatever_its_name_may_hold(pages: httpx.AsyncClient, ledger: Ledger) -> None:
    """Names may hold `:`, `@` and `+`; what none may hold stays where it is put, and is refused."""
    await ledger.put_plan(limit(maximum=50))
    for name in ("team:eu", "ada+bob@example.com"):
        await ledger.put_account(quote(name, safe=""))
        seen = {
            path: (await pages.get(path, params={"account_id": name})).status_code
            for path in ("/limits", "/usage-log", "/statements")
        }
        seen["/accounts"] = (await pages.get(f"/accounts/{quote(name, safe='')}")).status_code
        assert set(seen.values()) == {200}, seen
        saved = await pages.post(f"/accounts/{quote(name, safe='')}", data={"do": "account", "account-plan_id": PLAN})
        assert (saved.status_code, unquote(saved.headers["location"]).partition("?")[0]) == (303, f"/accounts/{name}")
    elsewhere = await pages.get("/limits", params={"account_id": "team:eu/limits:standing?limit=1#"})
    assert (elsewhere.status_code, "account_id" in elsewhere.text) == (422, True)
