"""What all pages have: who gets in, how problems look, what a browser is allowed, with and without JavaScript."""

import re
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from contracts.web.rendering import CONTENT_SECURITY_POLICY, count, duration, money
from contracts.web.sessions import inner_path
from ledger_service.pages import PAGES
from tests.browser import NARROW, Visitor, visiting
from tests.builders import ACCOUNT, completed, new_id
from tests.forms import SAME_SITE
from tests.servers import Ledger
from tests.tokens import TOKEN


async def made(ledger: Ledger, **fields: object) -> str:
    """A token of the ledger's, as its API makes them."""
    response = await ledger.http.post("/v1/tokens", json={"name": f"somebody-{new_id()}", **fields})
    assert response.is_success, response.text
    token: str = response.json()["token"]
    return token


async def spend(ledger: Ledger) -> None:
    now = datetime.now(UTC).isoformat()
    events = [completed(time=now, provider=provider, cost="12.50") for provider in ("stability", "local", "local")]
    assert (await ledger.send(*events))["rejected"] == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def spent(ledger: Ledger) -> Ledger:
    """The ledger of this file, with all that its tests let it record."""
    await spend(ledger)
    return ledger


async def test_whoever_did_not_sign_in_is_asked_to_and_comes_back(browser: Browser, ledger: Ledger) -> None:
    async with visiting(browser, ledger.url) as person:
        await person.open("/?account_id=acme")
        assert person.page.url == f"{ledger.url}/sign-in?next=%2F%3Faccount_id%3Dacme"
        await person.page.get_by_label("Token").fill("ult_wrong")
        await person.page.get_by_role("button", name="Sign in").click()
        assert "unknown, expired or revoked" in await person.main()
        await person.page.get_by_label("Token").fill(TOKEN)
        await person.page.get_by_role("button", name="Sign in").click()
        assert person.page.url == f"{ledger.url}/?account_id=acme"
        [cookie] = await person.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (SESSION_COOKIE, True, "Lax")
        await person.page.get_by_role("button", name="Sign out").click()
        assert await person.context.cookies() == []
        await person.open("/")
        assert "/sign-in" in person.page.url
        assert person.errors == []


async def test_a_token_that_ended_signs_out_and_says_so(browser: Browser, start_ledger) -> None:
    ledger = await start_ledger(token_seconds=0.01)
    token = await made(ledger, name="somebody", scopes=["usage:read"], account_id=ACCOUNT)
    async with visiting(browser, ledger.url) as person:
        await person.sign_in_at_the_form(token)
        assert ACCOUNT in await person.page.locator(".who").inner_text()
        [known] = [one for one in (await ledger.http.get("/v1/tokens")).json()["tokens"] if one["name"] == "somebody"]
        assert (await ledger.http.delete(f"/v1/tokens/{known['token_id']}")).is_success
        await person.open("/")
        assert "Your sign-in has ended" in await person.main()


async def test_the_first_page_shows_what_was_spent_and_draws_it(visitor: Visitor, fresh: Ledger) -> None:
    await visitor.open("/")
    assert "Nothing has been used this month" in await visitor.main()
    await spend(fresh)
    await visitor.open("/")
    said = await visitor.main()
    assert "$37.50" in said
    assert "local" in said
    assert await visitor.page.evaluate(
        "Chart.getChart(document.querySelector('canvas')).data.datasets.map(s => s.label)"
    ) == [
        "local",
        "stability",
    ]
    sums = await visitor.page.evaluate(
        "Chart.getChart(document.querySelector('canvas')).data.datasets.map(s => s.data.reduce((a, b) => a + b))"
    )
    assert sums == [25.0, 12.5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
async def test_axe_finds_nothing(browser: Browser, spent: Ledger, scheme: str, size: str) -> None:
    options = {"color_scheme": scheme, **({"viewport": NARROW} if size == "narrow" else {})}
    async with visiting(browser, spent.url, **options) as person:
        await person.open("/sign-in")
        assert await person.axe() == []
        await person.sign_in()
        await person.open("/")
        assert await person.axe() == []
        # Nothing sticks out: what is wider scrolls within itself.
        assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert person.errors == []


async def test_without_javascript_the_numbers_are_all_there(browser: Browser, spent: Ledger) -> None:
    async with visiting(browser, spent.url, java_script_enabled=False) as person:
        await person.sign_in_at_the_form()
        assert "$37.50" in await person.main()
        assert not await person.page.locator("canvas").is_visible()


async def test_another_sites_form_changes_nothing(ledger: Ledger) -> None:
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            refused = await client.post("/sign-in", data={"token": TOKEN}, headers=headers)
            assert refused.status_code == 403, headers
            assert "set-cookie" not in refused.headers
        # The API takes the cookie for reads alone.
        assert (await client.get(f"/v1/accounts/{ACCOUNT}/usage-log")).status_code == 200
        assert (await client.put("/v1/plans/p", json={"name": "p", "limits": []}, headers=SAME_SITE)).status_code == 401


async def test_no_other_site_makes_a_page_say_something(spent: Ledger) -> None:
    async with httpx.AsyncClient(base_url=spent.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        for before, is_said in (("", False), ("https://evil.example/", False), (f"{spent.url}/plans", True)):
            page = await client.get("/?said=Send+your+token+to+me", headers={"Referer": before})
            assert ("Send your token to me" in page.text) == is_said, before


async def test_a_token_of_one_account_sees_that_one(browser: Browser, spent: Ledger) -> None:
    token = await made(spent, scopes=["usage:read"], account_id="another")
    async with visiting(browser, spent.url) as person:
        await person.sign_in(token)
        await person.open("/")
        assert "Nothing has been used" in await person.main()
        assert await person.open(f"/?account_id={ACCOUNT}") == 200
        assert "$37.50" not in await person.main()


async def test_a_token_that_does_not_open_a_page_is_told_which_does(ledger: Ledger) -> None:
    token = await made(ledger, scopes=["limits:check"], account_id=ACCOUNT)
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: token}) as client:
        refused = await client.get("/")
    assert refused.status_code == 403
    assert "usage:read or usage:read-all" in refused.text


async def test_every_page_refuses_a_parameter_that_it_does_not_know(ledger: Ledger) -> None:
    """What is filtered by nothing would look as if it were; each parameter that it says it takes, it takes."""
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        for page in PAGES:
            if page.method != "GET" or page.asks is None:
                continue
            path = re.sub(r"\{.*?\}", "0192f3a0-0000-7000-8000-000000000000", page.path)
            refused = await client.get(path, params={"nonsense": "1"})
            assert refused.status_code == 422, path
            assert "query.nonsense" in refused.text
            known = await client.get(path, params=dict.fromkeys((*page.asks, "said"), ""))
            assert known.status_code in (200, 404, 422), (path, known.text)
            assert "(unknown)" not in known.text
        assert (await client.get("/usage", params={"to": "2026-11-01"})).status_code == 422


async def test_pages_leave_under_strict_headers_and_files_are_kept(ledger: Ledger) -> None:
    page = await ledger.http.get("/sign-in")
    assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert page.headers["cache-control"] == "no-store"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    style = page.text.split('rel="stylesheet" href="')[1].split('"')[0]
    file = await ledger.http.get(style)
    assert "immutable" in file.headers["cache-control"]
    assert file.headers["content-encoding"] == "gzip"
    for outside in ("/static/../pages.py", "/static/%2e%2e/pages.py", "/static//etc/passwd"):
        assert (await ledger.http.get(outside)).status_code == 404


async def test_without_access_control_nobody_signs_in(browser: Browser, start_ledger) -> None:
    ledger = await start_ledger(auth="off")
    async with visiting(browser, ledger.url) as person:
        assert await person.open("/") == 200
        assert await person.page.get_by_role("button", name="Sign out").count() == 0
        await person.open("/sign-in")
        assert person.page.url == f"{ledger.url}/"


def test_each_page_has_a_template_and_a_path_of_its_own() -> None:
    ways = [(page.method, page.path) for page in PAGES]
    assert len(set(ways)) == len(ways)
    assert all(page.group for page in PAGES if page.menu)


@pytest.mark.parametrize(
    ("amount", "said"),
    [("0", "$0.00"), ("1234.5", "$1,234.50"), ("0.000000001", "$0.000000001"), ("0.0425", "$0.0425"), ("-2", "-$2.00")],
)
def test_money_is_shown_to_the_cent_and_below_it_as_it_is(amount: str, said: str) -> None:
    assert money(amount) == said
    assert money(Decimal(amount)) == said


def test_counts_and_durations_are_for_people() -> None:
    assert [count(1234567), count(None), count("10")] == ["1,234,567", "\N{EN DASH}", "10"]
    assert [duration(0), duration(95), duration(90_000)] == ["0 s", "1 min 35 s", "1 d 1 h"]


@pytest.mark.parametrize(
    "path", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", ""]
)
def test_a_sign_in_leads_nowhere_else(path: str) -> None:
    assert inner_path(path) == "/"
    assert inner_path("/usage?from=1") == "/usage?from=1"
