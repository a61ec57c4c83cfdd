"""The page of statements: what it says of closed months and open ones, what came late, and how it is printed."""

import httpx
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, adjustment, completed
from tests.pages.test_pages import made
from tests.servers import Ledger
from tests.tokens import TOKEN

#: Who has one operation in that month; of ACCOUNT more becomes known.
PRINTED = "printed"
JULY = f"/statements?account_id={PRINTED}&period=2026-07"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def printed(ledger: Ledger) -> Ledger:
    await ledger.send(completed(account_id=PRINTED, time="2026-07-05T12:00:00Z", cost="3"))
    return ledger


async def test_a_statement_says_whether_it_is_closed_and_what_came_late(browser: Browser, ledger: Ledger) -> None:
    done = completed(time="2026-07-05T12:00:00Z", cost="3")
    await ledger.send(done)
    async with visiting(browser, ledger.url) as person:
        await person.sign_in()
        await person.open("/statements")
        assert await person.page.get_by_role("link", name=ACCOUNT, exact=True).count() == 1
        await person.page.get_by_label("Account", exact=True).fill(ACCOUNT)
        await person.page.get_by_label("Month (UTC)").fill("2026-07")
        await person.page.get_by_role("button", name="Show").click()
        await person.page.get_by_role("heading", name=f"Statement of {ACCOUNT} for 2026-07").wait_for()
        assert "nobody has closed it" in await person.main()
        close = f"/v1/accounts/{ACCOUNT}/periods/2026-07:close"
        assert (await ledger.http.put(close, json={"reason": "the books"})).is_success
        await ledger.send(completed(time="2026-07-06T12:00:00Z", cost="0.125"))
        void = adjustment("void", done, reason="<i>billed</i> twice")
        assert (await ledger.http.post("/v1/adjustments", json=void)).is_success
        await person.open(JULY.replace(PRINTED, ACCOUNT))
        said = await person.main()
        assert "the books. These figures no longer change." in said
        rows = await person.page.get_by_label("Summary").locator("tbody tr").all_inner_texts()
        assert rows[4].split("\t") == ["Total of this month", "1", "1", "0", "$3.00"]
        assert await person.axe() == []
        # What came late is in the first month that is open, and leads to its operation.
        month = (await ledger.usage_log())["items"][0]["booked_period"]
        await person.open(f"/statements?account_id={ACCOUNT}&period={month}")
        entries = await person.page.get_by_label("Late arrivals and corrections").locator("tbody tr").all_inner_texts()
        assert [(row.split("\t")[0], row.split("\t")[-1]) for row in entries] == [
            ("late", "$0.125"),
            ("void", "-$3.00"),
        ]
        assert "<i>billed</i> twice" in entries[1]
        await person.page.get_by_role("link", name="void").click()
        assert "Corrects" in await person.main()
        assert person.errors == []


async def test_on_paper_there_is_the_statement_and_nothing_else(browser: Browser, printed: Ledger) -> None:
    async with visiting(browser, printed.url, viewport=NARROW, color_scheme="dark") as person:
        await person.sign_in()
        await person.open(JULY)
        assert await person.axe() == []
        await person.page.emulate_media(media="print")
        for name in (".top", ".filters", ".ranges", ".downloads", ".foot"):
            assert not await person.page.locator(name).first.is_visible(), name
        assert await person.page.get_by_text("Total of this month").is_visible()
        ink = await person.page.evaluate("getComputedStyle(document.querySelector('td')).color")
        assert ink == "rgb(0, 0, 0)", "light ink of a dark screen is lost on paper"


async def test_files_are_a_link_away_and_what_is_wrong_is_said(printed: Ledger) -> None:
    async with httpx.AsyncClient(base_url=printed.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        page = (await client.get(JULY)).text
        for form in ("csv", "json", "html"):
            link = f"/v1/accounts/{PRINTED}/statements/2026-07?format={form}"
            assert f'href="{link}"' in page
            assert (await client.get(link)).status_code == 200
        wrong = await client.get(f"/statements?account_id={PRINTED}&period=July")
        assert wrong.status_code == 422
        [marked] = [tag for tag in wrong.text.split("<") if 'aria-invalid="true"' in tag]
        assert 'name="period"' in marked
        unknown = await client.get("/statements?account_id=nobody&period=2026-07")
        assert unknown.status_code == 404
        assert "nobody" in unknown.text
    token = await made(printed, scopes=["usage:read"], account_id="globex")
    async with httpx.AsyncClient(base_url=printed.url, cookies={SESSION_COOKIE: token}) as client:
        assert "$3.00" not in (await client.get(JULY)).text
