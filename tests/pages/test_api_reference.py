"""The reference of the HTTP API at a browser: from this service alone, under the policy of all pages, to be tried."""

import httpx
from playwright.async_api import Browser

from contracts.web.rendering import CONTENT_SECURITY_POLICY
from tests.browser import NARROW, visiting
from tests.servers import Ledger
from tests.tokens import TOKEN

#: How Swagger UI builds its own parts, which styles cannot change.
_ITS_OWN = ("heading-order", "landmark-", "nested-interactive", "scrollable-region-focusable")


async def test_it_is_open_and_under_the_policy_of_all_pages(ledger: Ledger) -> None:
    async with httpx.AsyncClient(base_url=ledger.url) as stranger:
        page = await stranger.get("/docs")
        assert (page.status_code, page.headers["content-security-policy"]) == (200, CONTENT_SECURITY_POLICY)
        assert "unsafe" not in CONTENT_SECURITY_POLICY
        assert "://" not in page.text
        assert (await stranger.get("/redoc")).status_code == 404


async def test_operations_are_shown_and_tried(browser: Browser, ledger: Ledger) -> None:
    async with visiting(browser, ledger.url) as person:
        page = person.page
        await person.open("/docs")
        await page.locator(".opblock-tag-section").first.wait_for()
        document = (await ledger.http.get("/openapi.json")).json()
        groups = {
            tag for path in document["paths"].values() for operation in path.values() for tag in operation["tags"]
        }
        assert {await one.get_attribute("data-tag") for one in await page.locator(".opblock-tag").all()} == groups
        await page.locator("[data-tag=administration] .expand-operation").click()
        operation = page.locator("[id$=v1_plans_get]")
        await operation.locator(".opblock-summary-control").click()
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table")
        await answer.get_by_text("unauthenticated").first.wait_for()
        await page.locator("button.authorize").click()
        await page.locator(".auth-container input").fill(TOKEN)
        await page.locator(".auth-btn-wrapper button", has_text="Authorize").click()
        await page.locator(".auth-btn-wrapper button", has_text="Close").click()
        await operation.get_by_role("button", name="Execute").click()
        await answer.get_by_text("items").first.wait_for()
        assert [one for one in await person.axe() if not one.startswith(_ITS_OWN)] == []
        await page.set_viewport_size(NARROW)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert person.errors == []
        assert person.elsewhere == []
