"""A real Chromium for the tests of pages, driven by Playwright.

One process serves a whole worker of pytest; each test has a context of its own: no cookies, no cache of others.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright

from contracts.access.bearer import SESSION_COOKIE
from tests.tokens import TOKEN

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE: Final = Path(__file__).parents[1] / ".tools/web/node_modules/axe-core/axe.min.js"
WIDE: Final[ViewportSize] = {"width": 1280, "height": 900}
NARROW: Final[ViewportSize] = {"width": 390, "height": 800}
_ADDRESS: Final = re.compile(r"DevTools listening on (ws://\S+)")


@contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """Its address. Skips where there is none: `make test` installs it where it can."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here: sh deploy/local/chromium.sh")
    command = [found, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run"]
    command += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses to run as root with it
    log = folder / "chromium.log"
    with log.open("wb") as written, subprocess.Popen(command, stderr=written, stdout=written) as process:
        try:
            yield _address(process, log)
        finally:
            process.terminate()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    for _ in range(600):
        if said := _ADDRESS.search(log.read_text(errors="replace")):
            return said[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not start: {log.read_text(errors='replace')[-2000:]}")


@cache
def _axe() -> str:
    if not AXE.exists():
        pytest.skip("no axe-core here: sh deploy/web/vendor.sh --only-install")
    return AXE.read_text()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Browser]:
    """Playwright, at a Chromium that runs already."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address)
        yield browser
        await browser.close()


class Visitor:
    """A person at a browser. ``errors``: what scripts or the content security policy complained of, which a test looks
    at last: `assert visitor.errors == []`."""

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context, self.page, self.url = context, page, url
        self.errors: list[str] = []
        #: Requests to anywhere but the service itself.
        self.elsewhere: list[str] = []
        page.on("console", lambda message: self._on_console(message.type, message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._on_request(request.url))

    async def open(self, path: str) -> int:
        """The page at ``path``; its status."""
        response = await self.page.goto(self.url + path)
        assert response is not None
        return response.status

    async def sign_in(self, token: str = TOKEN) -> None:
        """As `sign_in_at_the_form` leaves them, without a page."""
        await self.context.add_cookies(
            [{"name": SESSION_COOKIE, "value": token, "url": self.url, "httpOnly": True, "sameSite": "Lax"}]
        )

    async def sign_in_at_the_form(self, token: str = TOKEN) -> None:
        await self.open("/sign-in")
        await self.page.get_by_label("Token").fill(token)
        async with self.page.expect_navigation():
            await self.page.get_by_role("button", name="Sign in").click()

    async def main(self) -> str:
        """What the page says, without its menu."""
        return await self.page.locator("main").inner_text()

    async def axe(self) -> list[str]:
        """What axe-core finds against WCAG 2.2 A and AA, and its best practices: ``rule: where``."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(_axe())  # through the debugger: the page's policy allows no foreign script
        # All rules are run; of those that hold, no list of where they do is made.
        found: list[dict[str, Any]] = await self.page.evaluate(
            "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
            ".map(v => ({id: v.id, nodes: v.nodes.map(n => n.target.join(' '))}))"
        )
        return [f"{violation['id']}: {', '.join(violation['nodes'][:5])}" for violation in found]

    def _on_console(self, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:  # a problem's status, which tests look at
            self.errors.append(text)

    def _on_request(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(url)


@asynccontextmanager
async def visiting(browser: Browser, url: str, **options: Any) -> AsyncIterator[Visitor]:
    """Somebody new at the service with this address. Options as `Browser.new_context` has them: ``viewport=NARROW``,
    ``color_scheme="dark"``, ``java_script_enabled=False``."""
    context = await browser.new_context(**{"viewport": WIDE, **options})
    try:
        yield Visitor(context, await context.new_page(), url)
    finally:
        await context.close()
