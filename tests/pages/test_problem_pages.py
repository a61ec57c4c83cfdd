"""What went wrong, told to people as pages and to programs as problems."""

import re

import httpx
import pytest
from playwright.async_api import Browser
from starlette.requests import Request
from structlog.testing import CapturingLogger

from contracts import http_problems
from contracts.problems import CONTENT_TYPE
from contracts.web.problem_pages import asked_by_a_browser
from contracts.web.rendering import CONTENT_SECURITY_POLICY
from ledger_service.pages import PAGES, overview
from tests.browser import NARROW, visiting
from tests.servers import Ledger
from tests.tokens import TOKEN

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("path", "accept", "is_page"),
    [
        ("/nowhere", BROWSER, True),
        ("/nowhere", "text/html;q=0.9, application/json;q=0.5", True),
        ("/nowhere", "application/json, text/html", False),
        ("/nowhere", "text/html;q=broken", False),
        ("/nowhere", "*/*", False),
        ("/nowhere", "", False),
        ("/v1/nowhere", BROWSER, False),
    ],
)
def test_who_prefers_html_outside_the_api_is_a_person(path: str, accept: str, is_page: bool) -> None:
    headers = [(b"accept", accept.encode())]
    request = Request({"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers})
    assert asked_by_a_browser(request) == is_page


async def test_people_get_a_page_and_programs_the_problem(ledger: Ledger) -> None:
    async with httpx.AsyncClient(base_url=ledger.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        for method, path, status in (("GET", "/nowhere/at<b>all", 404), ("DELETE", "/usage", 405)):
            told = await client.request(method, path)
            assert (told.status_code, told.headers["content-type"]) == (status, CONTENT_TYPE)
            page = await client.request(method, path, headers={"Accept": BROWSER})
            assert (page.status_code, page.headers["content-security-policy"]) == (status, CONTENT_SECURITY_POLICY)
            assert page.headers["x-request-id"] in page.text
            assert page.headers.get("allow") == told.headers.get("allow")
            assert told.json()["code"] in page.text
            assert "<b>" not in page.text
        assert (await client.get("/v1/nowhere", headers={"Accept": BROWSER})).headers["content-type"] == CONTENT_TYPE


async def test_a_bug_is_a_page_without_its_inside_and_the_log_has_its_id(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken is what a page asks; it runs in this process."""

    def broken(_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(overview, "to_date", broken)
    # Where it is printed depends on what ran in this process before.
    logger = CapturingLogger()
    monkeypatch.setattr(http_problems, "log", logger)
    assert overview.PAGE in PAGES
    headers = {"Cookie": f"usage_ledger_token={TOKEN}"}
    async with httpx.AsyncClient(base_url=ledger.url, headers=headers) as client:
        told = await client.get("/")
        assert (told.status_code, told.json()["code"]) == (500, "internal")
        page = await client.get("/", headers={"Accept": BROWSER})
        assert page.status_code == 500
        assert "Something went wrong on our side" in page.text
        assert "secret" not in page.text + told.text
        [request_id] = set(re.findall(r"<code>([0-9a-f-]{36})</code>", page.text))
    logged = [call.kwargs for call in logger.calls if call.args == ("internal_error",)]
    assert [one["request_id"] for one in logged][1:] == [request_id]
    assert all("secret inside" in str(one["exc_info"]) for one in logged)


async def test_it_says_where_to_go_at_a_browser(browser: Browser, ledger: Ledger) -> None:
    async with visiting(browser, ledger.url, viewport=NARROW, color_scheme="dark") as person:
        assert await person.open("/nowhere") == 404
        assert "There is no page here: nothing is served at /nowhere" in await person.main()
        assert await person.page.get_by_role("link", name="Try again").count() == 0
        assert await person.axe() == []
        await person.page.get_by_role("link", name="To the first page").click()
        assert "/sign-in" in person.page.url
        assert person.errors == []
