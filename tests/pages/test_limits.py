"""Pages about limits: how they stand and when they are reached, denials, and the decision explained."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from contracts.standings import Forecast, Outlook
from ledger_service.domain.pace import forecast
from ledger_service.pages.words import forecast_words, selected_words
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, check, completed, limit
from tests.pages.test_pages import made
from tests.servers import Ledger
from tests.tokens import TOKEN

LIMITS = (
    limit("images", maximum=4, thresholds=[50]),
    limit("spend", meter="cost", window="day", maximum="10.00"),
    limit("each", scope="user", window="day", maximum=2),
    limit("prepaid", meter="cost", window="lifetime", maximum="0", credit=True),
)


async def fill(ledger: Ledger) -> tuple[str, str]:
    """An account that used most of what it may; a denied operation, and one that is still held, and was moved."""
    await ledger.set_up(*LIMITS)
    grant = {"limit_id": "prepaid", "amount": "5", "valid_from": "2026-01-01T00:00:00Z"}
    await put(ledger, f"/v1/accounts/{ACCOUNT}/credit-grants/gift", grant)
    await put(ledger, f"/v1/accounts/{ACCOUNT}/limits/spend", {"maximum": "2.00", "reason": "asked for"})
    asked = [check(user_id=user, estimated_cost="0.50") for user in ("ada", "ada", "grace")]
    _, _, last = [await ledger.check(one) for one in asked]
    assert (await ledger.move(last, provider="far", estimated_cost="0.50"))["allowed"]
    await ledger.send(completed(asked[0], cost="0.40"), completed(asked[1], cost="0.40"))
    denied = check(user_id="ada", estimated_cost="0.10")
    assert not (await ledger.check(denied))["allowed"]
    return denied["operation_id"], asked[2]["operation_id"]


async def put(ledger: Ledger, path: str, body: object) -> None:
    response = await ledger.http.put(path, json=body)
    assert response.is_success, response.text


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def filled(ledger: Ledger) -> tuple[str, str]:
    """What `fill` put into the ledger of this file, in which nothing else happens."""
    return await fill(ledger)


@pytest_asyncio.fixture(loop_scope="session")
async def pages(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """Pages without a browser, of somebody who is signed in."""
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def fresh_pages(fresh: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fresh.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        yield client


async def test_an_empty_ledger_says_what_to_expect(fresh_pages: httpx.AsyncClient) -> None:
    for path, said in (
        ("/limits", "There is no account yet"),
        ("/limits?prefix=nope", "No account begins with"),
        ("/near-limits", "No limit of any account was used"),
        ("/denials", "Nothing was denied in the last 24 hours"),
    ):
        shown = await fresh_pages.get(path)
        assert (shown.status_code, said in shown.text) == (200, True), path


async def test_a_browser_sees_limits_and_goes_from_a_denial_to_what_used_it_up(
    browser: Browser, ledger: Ledger, filled: tuple[str, str]
) -> None:
    denied, held = filled
    async with visiting(browser, ledger.url) as person:
        await person.sign_in()
        await person.open("/limits")
        await person.page.get_by_role("link", name=ACCOUNT).click()
        said = await person.main()
        for words in ("override", "will be reached", "user ada", "gift", "$3.70", held, "50 %"):
            assert words in said, words
        assert await person.axe() == []
        await person.open("/near-limits")
        first = person.page.locator("main tbody tr").first
        assert "images" in await first.inner_text()
        assert "75.0 %" in await first.inner_text()
        assert await person.axe() == []
        await person.page.get_by_role("navigation").get_by_role("link", name="Denials").click()
        await person.page.wait_for_function(
            "typeof Chart !== 'undefined' && Chart.getChart(document.querySelector('canvas'))"
        )
        datasets = "Chart.getChart(document.querySelector('canvas')).data.datasets.map(s => [s.label, s.data.at(-1)])"
        assert await person.page.evaluate(datasets) == [["limit each", 1]]
        await person.page.select_option("#code", "unknown_plan")
        await person.page.get_by_role("button", name="Show").click()
        await person.page.wait_for_url("**code=unknown_plan**")
        assert "None of the denials above is of that kind" in await person.main()
        await person.open("/denials")
        assert await person.axe() == []
        await person.page.locator(f"a[href*='{denied}']").click()
        said = await person.main()
        for words in ("denied limit each", "2 settled, 0 held, 1 asked", "on user ada", "version 1"):
            assert words in said, words
        assert await person.axe() == []
        way = await person.page.get_by_role("link", name="The rows of the usage log").get_attribute("href")
        assert way is not None
        assert way.startswith(f"/usage-log?account_id={ACCOUNT}&user_id=ada&counted_from=")
        assert await person.open(way) == 200
        assert await person.page.locator("main tbody tr").count() == 2  # what is settled of that limit
        assert (person.errors, person.elsewhere) == ([], [])


async def test_the_overview_has_the_newest_denials_of_who_may_see_them(
    ledger: Ledger, pages: httpx.AsyncClient, filled: tuple[str, str]
) -> None:
    denied, _ = filled
    way = f"/decisions/{denied}?account_id={ACCOUNT}"
    for path in ("/", f"/?account_id={ACCOUNT}"):
        shown = (await pages.get(path)).text
        assert "Recent denials" in shown
        assert way in shown
        assert "limit each" in shown
    assert (await pages.get(way)).status_code == 200
    token = await made(ledger, scopes=["usage:read"], account_id="another")
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: token}) as client:
        assert "Recent denials" not in (await client.get("/")).text


async def test_narrow_dark_and_without_javascript_all_is_there(
    browser: Browser, ledger: Ledger, filled: tuple[str, str]
) -> None:
    denied, held = filled
    async with visiting(browser, ledger.url, viewport=NARROW, color_scheme="dark") as person:
        await person.sign_in()
        for path in (f"/limits?account_id={ACCOUNT}", "/near-limits", "/denials", f"/decisions/{denied}"):
            await person.open(path)
            assert await person.axe() == [], path
            assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert person.errors == []
    async with visiting(browser, ledger.url, java_script_enabled=False) as person:
        await person.sign_in()
        await person.open(f"/decisions/{held}")
        assert "open, expires" in await person.main()
        assert "local · render-1, 1 unit at $0.50, from" in await person.main()
        await person.open("/denials?range=7d")
        assert "limit each" in await person.main()
        assert not await person.page.locator("canvas").is_visible()


async def test_a_token_of_an_account_sees_its_own_alone(ledger: Ledger, filled: tuple[str, str]) -> None:
    denied, _ = filled
    other = await made(ledger, name="other", scopes=["usage:read"], account_id="another")
    own = await made(ledger, name="own", scopes=["usage:read"], account_id=ACCOUNT)
    nothing = await made(ledger, scopes=["limits:check"], account_id=ACCOUNT)
    async with httpx.AsyncClient(base_url=ledger.url) as client:

        async def status(token: str, path: str) -> tuple[int, bool]:
            shown = await client.get(path, headers={"Cookie": f"{SESSION_COOKIE}={token}"})
            return shown.status_code, "ada" in shown.text

        assert await status(own, "/limits") == (200, True)
        assert await status(own, "/denials") == (200, True)
        assert await status(own, f"/decisions/{denied}") == (200, True)
        # Its own is meant, and nothing is known of that.
        assert await status(other, f"/limits?account_id={ACCOUNT}") == (404, False)
        assert await status(other, f"/denials?account_id={ACCOUNT}") == (200, False)
        assert await status(other, f"/decisions/{denied}?account_id={ACCOUNT}") == (404, False)
        for token in (own, other):
            for path in ("/near-limits", "/accounts", "/plans", "/plans/basic"):
                assert await status(token, path) == (403, False), path
        for path in ("/limits", "/denials", f"/decisions/{denied}", f"/accounts/{ACCOUNT}"):
            assert await status(nothing, path) == (403, False), path


async def test_what_is_asked_for_wrongly_is_named(ledger: Ledger, pages: httpx.AsyncClient) -> None:
    for path, status, said in (
        ("/limits?account_id=nobody", 404, "nothing is known of account nobody"),
        ("/limits?account_id=%00", 422, "account_id"),
        ("/denials?range=year", 422, "query.range"),
        ("/denials?account_id=a%20b", 422, "query.account_id"),
        ("/denials?limit_id=a%20b", 422, "query.limit_id"),
        ("/decisions/no-id", 422, "operation_id"),
        ("/decisions/01890a5d-ac96-774b-bcce-b302099a8057", 404, "no limit check of operation"),
    ):
        shown = await pages.get(path)
        assert (shown.status_code, said in shown.text) == (status, True), (path, shown.text[-900:])
    shown = await pages.get("/limits?account_id=<script>alert(1)</script>")
    assert "<script>alert" not in shown.text


async def test_without_the_database_each_page_says_so(
    fresh: Ledger, fresh_pages: httpx.AsyncClient, fresh_database_url: str
) -> None:
    denied, _ = await fill(fresh)
    assert (await fresh_pages.get("/denials")).status_code == 200
    connection = await asyncpg.connect(fresh_database_url)
    try:
        name = await connection.fetchval("select current_database()")
        await connection.execute(f'alter database "{name}" connection limit 0')
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> "
            "pg_backend_pid()"
        )
        for path in (f"/limits?account_id={ACCOUNT}", "/denials", f"/decisions/{denied}", "/plans", "/accounts"):
            shown = await fresh_pages.get(path)
            assert (shown.status_code, "store_unavailable" in shown.text, "<h1>" in shown.text) == (503, True, True), (
                path
            )
    finally:
        await connection.execute(f'alter database "{name}" connection limit -1')
        await connection.close()


NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("available", "used", "days", "outlook", "at"),
    [
        (50, 50, 1, Outlook.IN_PERIOD, NOW + timedelta(days=1)),
        (60, 10, 1, Outlook.IN_PERIOD, NOW + timedelta(days=6)),
        (70, 10, 1, Outlook.NOT_IN_PERIOD, None),  # at its very end: the next period has begun
        (10**18, 1, 1, Outlook.NOT_IN_PERIOD, None),
        (0, 10, 1, Outlook.REACHED, None),
        (-5, 0, 1, Outlook.REACHED, None),
        (5, 0, 1, Outlook.UNUSED, None),
        (5, 5, 0, Outlook.UNUSED, None),
    ],
)
def test_a_limit_is_reached_when_use_goes_on_as_it_did(
    available: int, used: int, days: int, outlook: Outlook, at: datetime | None
) -> None:
    since = NOW - timedelta(days=days)
    assert forecast(available, used, since, NOW, NOW + timedelta(days=7)) == Forecast(
        outlook=outlook, at=at, since=since
    )


def test_forecasts_are_said_plainly() -> None:
    def said(outlook: str, at: datetime | None = None) -> str:
        return forecast_words({"outlook": outlook, "at": None if at is None else at.isoformat()}, NOW)

    assert said("in_period", NOW + timedelta(days=3, hours=4)) == "in 3 d 4 h, on 27 Nov 14:00"
    assert said("in_period", NOW + timedelta(days=40)) == "in 40 d, on 3 Jan 2027 10:00"
    assert [said("reached"), said("not_in_period"), said("unused"), forecast_words(None, NOW)] == [
        "reached",
        "not in this period",
        "not used",
        "",
    ]
    assert selected_words({"operation": ["edit", "upscale"], "provider": [], "model": ["m"]}) == "edit or upscale · m"
