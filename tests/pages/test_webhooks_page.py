"""The pages of webhooks, against a real receiver: added, tried, failing, sent again, enabled and removed."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from contracts.notifications import KINDS
from ledger_service.pages.webhooks import WORDS
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, check, limit
from tests.forms import form_client
from tests.pages.test_pages import made
from tests.receivers import QUICK_WEBHOOKS, Receiver, receiving
from tests.servers import Ledger, as_service, eventually, serving

QUICK: dict[str, Any] = {
    **QUICK_WEBHOOKS,
    "webhook_timeout_seconds": 2.0,
    "webhook_retry_seconds": [0.05],
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ledger(database_url: str, nats_url: str) -> AsyncIterator[Ledger]:
    async with serving(database_url=as_service(database_url), nats_url=nats_url, **QUICK) as running:
        await running.put_plan(limit(maximum=0))
        await running.put_account()
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def person(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    async with form_client(ledger.url, page="/webhooks", follow_redirects=True) as client:
        yield client


def typed(receiver: Receiver, name: str, **changes: object) -> dict[str, object]:
    return {"webhook_id": name, "url": receiver.url(), "types": ["limit_check.denied"], **changes}


async def settled(ledger: Ledger, name: str, state: str, attempts: int = 1) -> str:
    """The id of a delivery of a denial, once it is so."""
    found: list[str] = []

    async def is_there() -> list[str]:
        asked = {"type": "limit_check.denied"}
        items = (await ledger.http.get(f"/v1/webhooks/{name}/deliveries", params=asked)).json()["items"]
        found.extend(one["message_id"] for one in items if one["state"] == state and one["attempts"] >= attempts)
        return found

    await eventually(is_there, f"a delivery of {name} is {state}")
    return found[0]


def test_each_kind_has_its_words() -> None:
    assert set(WORDS) == {kind.name for kind in KINDS}


async def test_it_is_added_and_tried_at_a_browser(browser: Browser, ledger: Ledger, receiver: Receiver) -> None:
    async with visiting(browser, ledger.url) as person:
        await person.sign_in()
        page = person.page
        await person.open("/webhooks")
        assert "No endpoint yet" in await person.main()
        await page.get_by_label("Name").fill("finance")
        await page.get_by_label("Address").fill(receiver.url())
        await page.get_by_label("an operation was not admitted").check()
        assert await person.axe() == []
        await page.get_by_role("button", name="Add").click()
        assert re.search(r"shown this once: whsec_\S{40,}", await person.main())
        await person.open("/webhooks/finance")
        assert "whsec_" not in await person.main()
        await page.get_by_role("button", name="Send a test").click()
        await page.locator("#delivery .tag", has_text="delivered").wait_for()  # the page looks again by itself
        assert "nothing: it was taken" in await person.main()
        assert await person.axe() == []
        assert [one.payload["type"] for one in receiver.requests] == ["webhook.test"]
        await page.set_viewport_size(NARROW)
        await page.emulate_media(color_scheme="dark")
        for path in ("/webhooks/finance", "/webhooks"):
            await person.open(path)
            assert "works" in await person.main()
            assert await person.axe() == []
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert person.errors == []
        assert person.elsewhere == []


async def test_what_failed_shows_each_attempt_and_is_sent_again(
    ledger: Ledger, person: httpx.AsyncClient, receiver: Receiver
) -> None:
    receiver.otherwise = 500
    assert (await person.post("/webhooks", data=typed(receiver, "failing"))).status_code == 200
    await ledger.check(check())
    message_id = await settled(ledger, "failing", "failed", 2)
    shown = await person.get("/webhooks/failing")
    assert "failing</span> since" in shown.text
    assert ">failed</span>" in shown.text
    one = f"/webhooks/failing/deliveries/{message_id}"
    page = (await person.get(one)).text
    assert "nothing: it was taken" not in page
    assert page.count(">500</span>") == 2
    assert "limit_check.denied" in page
    receiver.otherwise = 200
    again = await person.post(f"{one}/redeliver")
    assert "It is sent once more" in again.text
    assert await settled(ledger, "failing", "delivered", 3) == message_id
    some = await person.post("/webhooks/failing/redeliver", data={"from": "2026-01-01T00:00", "delivered": "yes"})
    assert re.search(r"Sent again: [1-9]", some.text)


async def test_one_that_is_gone_is_disabled_and_enabled_then_removed(
    ledger: Ledger, person: httpx.AsyncClient, receiver: Receiver
) -> None:
    receiver.otherwise = 410
    await person.post("/webhooks", data=typed(receiver, "gone"))
    await person.post("/webhooks/gone/test")
    await eventually(lambda: _is_disabled(ledger), "it is disabled")
    assert (
        "it answered 410 Gone: nothing is sent until it is enabled again" in (await person.get("/webhooks/gone")).text
    )
    receiver.otherwise = 200
    saved = await person.post("/webhooks/gone/save", data=typed(receiver, "gone", description="the books"))
    assert "the books" in saved.text
    assert not await _is_disabled(ledger)
    assert "still verifies until" in (await person.post("/webhooks/gone/rotate-secret")).text
    assert "gone is removed" in (await person.post("/webhooks/gone/remove")).text
    assert (await person.get("/webhooks/gone")).status_code == 404
    # Nobody makes it again by a form that stood open.
    assert (await person.post("/webhooks/gone/save", data=typed(receiver, "gone"))).status_code == 404
    assert (await ledger.http.get("/v1/webhooks/gone")).status_code == 404


async def test_it_is_paused_and_resumed_by_a_button(
    ledger: Ledger, person: httpx.AsyncClient, receiver: Receiver
) -> None:
    await person.post("/webhooks", data=typed(receiver, "worked-on"))
    before = (await person.get("/webhooks/worked-on")).text
    assert '/webhooks/worked-on/pause"' in before
    assert '/webhooks/worked-on/resume"' not in before
    paused = (await person.post("/webhooks/worked-on/pause")).text
    assert "Paused: what happens is queued until it is resumed." in paused
    assert re.search(r'warn">paused</span> since .*, by hand: what happens is queued until it is resumed', paused)
    assert "by hand: what happens is queued" in (await person.get("/webhooks")).text
    waits = (await person.post("/webhooks/worked-on/test")).text
    assert "its endpoint is paused: nothing is sent there now" in waits
    kept = await person.post("/webhooks/worked-on/save", data=typed(receiver, "worked-on", description="soon back"))
    assert "Saved: it is still paused." in kept.text
    assert "It goes on: 1 are to be sent now, in order." in (await person.post("/webhooks/worked-on/resume")).text
    await eventually(lambda: [one.payload["type"] for one in receiver.taken] == ["webhook.test"], "it arrives")


async def _is_disabled(ledger: Ledger) -> bool:
    return (await ledger.http.get("/v1/webhooks/gone")).json()["disabled_at"] is not None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "http://10.0.0.1/hook"}, "url"),
        ({"types": []}, "types"),
        ({"webhook_id": "no name"}, "webhook_id"),
        ({"secret": "short"}, "secret"),
        ({"webhook_id": ""}, "webhook_id"),
    ],
)
async def test_a_broken_rule_is_shown_beside_what_was_typed(
    person: httpx.AsyncClient, receiver: Receiver, change: dict[str, object], field: str
) -> None:
    wrong = await person.post("/webhooks", data={**typed(receiver, "wrong", description="of mine"), **change})
    assert wrong.status_code == 422
    assert 'value="of mine"' in wrong.text
    assert re.search(rf'name="{field}"[^>]*aria-invalid="true"', wrong.text), field
    assert "short" not in wrong.text.split('<form class="card"')[1]


async def test_an_accounts_token_has_its_own_alone(
    ledger: Ledger, person: httpx.AsyncClient, receiver: Receiver
) -> None:
    token = await made(ledger, scopes=["admin"], account_id=ACCOUNT)
    async with form_client(ledger.url, token) as client:
        page = (await client.get("/webhooks")).text
        assert "something could not enter the log" not in page
        assert (await client.post("/webhooks", data=typed(receiver, "own"))).status_code == 200
        assert ">own</a>" in (await client.get("/webhooks")).text
    assert (await ledger.http.get("/v1/webhooks/own")).status_code == 404
    of_account = f"/v1/accounts/{ACCOUNT}/webhooks/own"
    assert (await ledger.http.get(of_account)).status_code == 200
    assert ">own</a>" in (await person.get("/webhooks", params={"account_id": ACCOUNT})).text
    assert ">own</a>" not in (await person.get("/webhooks")).text
    reader = await made(ledger, scopes=["usage:read-all"])
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: reader}) as client:
        assert (await client.get("/webhooks")).status_code == 403
