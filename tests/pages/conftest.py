"""Fixtures of the pages' tests: one Chromium for all of a worker's tests, a person at it for each."""

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser

from tests.browser import Visitor, chromium, connected, visiting
from tests.servers import Ledger


@pytest.fixture(scope="session")
def chromium_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium_address: str) -> AsyncIterator[Browser]:
    async with connected(chromium_address) as found:
        yield found


@pytest.fixture
async def visitor(browser: Browser, ledger: Ledger) -> AsyncIterator[Visitor]:
    """Somebody who signed in at the ledger with a token for everything."""
    async with visiting(browser, ledger.url) as person:
        await person.sign_in()
        yield person
        assert person.errors == []
        assert person.elsewhere == []
