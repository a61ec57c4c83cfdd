"""Signing in at an issuer: the whole way there and back, and what comes back that opens nothing."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import copy
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from contracts.access.bearer import SESSION_COOKIE
from contracts.access.oidc_attempts import SECONDS_MAX, Attempt
from contracts.access.settings import AccessSettings
from contracts.web.oidc import BEGIN, CALLBACK
from contracts.web.sessions import keep_attempt
from tests.browser import NARROW, visiting
from tests.conftest import StartLedger
from tests.integration.issuer import AUDIENCE, Issuer, issuing
from tests.servers import Ledger, as_service, serving

ATTEMPT = "usage_ledger_sign_in"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running_issuer() -> AsyncIterator[Issuer]:
    async with issuing() as found:
        yield found


@pytest.fixture
def issuer(running_issuer: Issuer) -> Iterator[Issuer]:
    """As it was when it started, and asked nothing yet."""
    before = {name: copy(value) for name, value in vars(running_issuer).items()}
    yield running_issuer
    vars(running_issuer).update(before)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ledger(running_issuer: Issuer, database_url: str, nats_url: str) -> AsyncIterator[Ledger]:
    """One whose people sign in at the issuer."""
    wanted = {"database_url": as_service(database_url), "nats_url": nats_url, **trust(running_issuer)}
    async with serving(**wanted, oidc_authorize={"resource": "ledger", "state": "not ours"}) as running:
        running_issuer.redirect_uris = ways_back(running)
        yield running


def trust(issuer: Issuer) -> dict[str, object]:
    return {"oidc_issuer": issuer.url, "oidc_audiences": [AUDIENCE], "oidc_client_id": issuer.client_id}


def address_of(ledger: Ledger) -> str:
    """As people have it: of another site than the issuer."""
    return ledger.url.replace("127.0.0.1", "localhost")


def ways_back(ledger: Ledger) -> list[str]:
    return [f"{url}{CALLBACK}" for url in (ledger.url, address_of(ledger))]


async def test_somebody_signs_in_at_the_issuer_and_out_again(browser: Browser, ledger: Ledger, issuer: Issuer) -> None:
    address = address_of(ledger)
    async with visiting(browser, address, viewport=NARROW, color_scheme="dark") as person:
        await person.open("/usage?group_by=model")
        assert await person.axe() == []
        await person.page.get_by_role("link", name="Sign in with 127.0.0.1").click()
        await person.page.get_by_role("link", name="Refuse").click()
        assert "The issuer let nobody in: access_denied, <b>no</b>." in await person.main()
        assert SESSION_COOKIE not in {cookie["name"] for cookie in await person.context.cookies()}
        await person.page.get_by_role("link", name="Sign in with 127.0.0.1").click()
        await person.page.get_by_role("link", name="Continue as ada").click()
        assert person.page.url == f"{address}/usage?group_by=model"
        assert "acme" in await person.page.locator(".who").inner_text()
        [cookie] = await person.context.cookies(address)
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (SESSION_COOKIE, True, "Lax")
        now = await person.page.evaluate("Date.now() / 1000")
        assert 200 < cookie["expires"] - now <= 300, "no longer than the token"
        asked = issuer.authorized[0]
        assert (asked["scope"], asked["resource"], len(asked["state"])) == ("openid", "ledger", 43)
        await person.page.get_by_text("Menu").click()
        await person.page.get_by_role("button", name="Sign out").click()
        await person.page.wait_for_url(f"{address}/sign-in")
        assert issuer.signed_out == [
            {"client_id": issuer.client_id, "post_logout_redirect_uri": f"{address}/sign-in"},
        ]
        assert SESSION_COOKIE not in {cookie["name"] for cookie in await person.context.cookies()}
        assert person.errors == []


@asynccontextmanager
async def beginning(ledger: Ledger, next_: str = "/") -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, str]]]:
    """Somebody on the way to the issuer, and what the issuer is asked."""
    async with httpx.AsyncClient(base_url=ledger.url, timeout=20) as client:
        begun = await client.get(BEGIN, params={"next": next_})
        assert begun.status_code == 303, begun.text
        yield client, dict(parse_qsl(urlsplit(begun.headers["location"]).query))


async def agreed(issuer: Issuer, asked: dict[str, str]) -> dict[str, str]:
    """What the issuer sends back with somebody who agreed."""
    async with httpx.AsyncClient() as client:
        page = await client.get(f"{issuer.url}/authorize", params=asked)
    link = re.findall(r'href="([^"]*)"', page.text)[0]
    return dict(parse_qsl(urlsplit(unescape(link)).query))


async def signed_in(ledger: Ledger, issuer: Issuer, **changes: str) -> httpx.Response:
    """The answer to whoever comes back from the issuer, with something changed on the way."""
    async with beginning(ledger) as (client, asked):
        back = {**await agreed(issuer, asked), **changes}
        return await client.get(CALLBACK, params=back)


async def test_what_is_not_meant_for_this_sign_in_opens_nothing(ledger: Ledger, issuer: Issuer) -> None:
    other = "another"
    cases: list[tuple[str, dict[str, Any], dict[str, str], int, str]] = [
        ("a state of another attempt", {}, {"state": other}, 400, "not to the sign-in that began in this browser"),
        ("an answer of another issuer", {}, {"iss": "https://issuer.example"}, 400, "another issuer"),
        ("a code that is none", {}, {"code": other}, 400, "used before, or took too long"),
        ("no code", {}, {"code": ""}, 400, "sent no code"),
        ("a code that expired", {"code_seconds": -1.0}, {}, 400, "used before, or took too long"),
        ("a nonce of another attempt", {"of_id": {"nonce": other}}, {}, 400, "of another sign-in"),
        ("no nonce", {"of_id": {"nonce": None}}, {}, 400, "of another sign-in"),
        ("an ID token for another client", {"of_id": {"aud": other}}, {}, 400, "ID token is not valid"),
        ("an ID token of another party", {"of_id": {"azp": other}}, {}, 400, "another client"),
        ("an ID token that ended", {"of_id": {"exp": 1}}, {}, 400, "ID token is not valid"),
        ("a token for another service", {"of_access": {"aud": other}}, {}, 403, "for another service"),
        ("a token that ended", {"of_access": {"exp": 1}}, {}, 403, "for another service"),
        ("a token that is no JWT", {"of_access": "opaque"}, {}, 403, "for another service"),
        ("a token too long for a cookie", {"of_access": {"groups": "x" * 4000}}, {}, 400, "too long"),
    ]
    for what, of_issuer, changes, status, told in cases:
        before = {name: getattr(issuer, name) for name in of_issuer}
        vars(issuer).update(of_issuer)
        refused = await signed_in(ledger, issuer, **changes)
        vars(issuer).update(before)
        assert (refused.status_code, told in unescape(refused.text)) == (status, True), (what, refused.text)
        assert SESSION_COOKIE not in refused.headers.get("set-cookie", ""), what
    # After all of that, one that is good.
    let_in = await signed_in(ledger, issuer)
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
    assert SESSION_COOKIE in let_in.headers["set-cookie"]


async def coming_back(ledger: Ledger, cookie: str | None, back: dict[str, str]) -> httpx.Response:
    """From the issuer, with a browser that has this cookie alone."""
    async with httpx.AsyncClient(base_url=ledger.url, cookies={ATTEMPT: cookie} if cookie else {}) as client:
        return await client.get(CALLBACK, params=back)


async def test_a_code_is_good_once_and_in_its_browser_alone(ledger: Ledger, issuer: Issuer) -> None:
    async with beginning(ledger, "/usage") as (client, asked):
        cookie = client.cookies[ATTEMPT]
        back = await agreed(issuer, asked)
        stolen = await coming_back(ledger, None, back)
        assert (stolen.status_code, "began in another browser" in stolen.text) == (400, True)
        # Where to go is bound to the state: in another's cookie it is another attempt.
        began, secret, _ = cookie.split(".")
        bent = Attempt(secret, int(began), "https://evil.example/").cookie
        assert (await coming_back(ledger, bent, back)).status_code == 400
        assert (await client.get(CALLBACK, params=back)).headers["location"] == "/usage"
        again = await coming_back(ledger, cookie, back)
        assert (again.status_code, "used before" in again.text) == (400, True)


async def test_a_sign_in_ends_in_this_service(ledger: Ledger, issuer: Issuer) -> None:
    for next_ in ("//evil.example", "https://evil.example/", "/\\evil.example", "/\t/evil.example"):
        async with beginning(ledger, next_) as (client, asked):
            ended = await client.get(CALLBACK, params={**await agreed(issuer, asked), "next": next_})
            assert (ended.status_code, ended.headers["location"]) == (303, "/"), next_
            # A link of others signs out nobody.
            assert (await client.get("/sign-in/leaving")).headers["location"] == "/sign-in"


async def test_while_the_issuer_is_down_people_are_told_so(start_ledger: StartLedger, issuer: Issuer) -> None:
    # One that has not asked the issuer yet.
    ledger = await start_ledger(**trust(issuer))
    issuer.redirect_uris = ways_back(ledger)
    issuer.down = True
    refused = await ledger.http.get(BEGIN)
    assert (refused.status_code, "cannot be verified at this moment" in refused.text) == (503, True)
    issuer.down = False
    async with beginning(ledger) as (client, asked):
        back = await agreed(issuer, asked)
        issuer.down = True
        refused = await client.get(CALLBACK, params=back)
        assert (refused.status_code, "cannot be verified at this moment" in refused.text) == (503, True)
        issuer.down = False
        assert (await client.get(CALLBACK, params=back)).status_code == 303, "the code was not used up"


async def test_an_id_token_serves_where_its_client_is_an_audience(start_ledger: StartLedger, issuer: Issuer) -> None:
    """Some issuers have access tokens that nobody but themselves can read."""
    issuer.client_secret, issuer.of_access = "a secret: +&%", "opaque"
    issuer.of_id = {"account_id": "acme", "scope": "usage:read"}
    wanted = {**trust(issuer), "oidc_audiences": [issuer.client_id], "oidc_client_secret": issuer.client_secret}
    ledger = await start_ledger(**wanted)
    issuer.redirect_uris = ways_back(ledger)
    let_in = await signed_in(ledger, issuer)
    assert let_in.status_code == 303, let_in.text
    page = await ledger.http.get("/usage", headers={"Authorization": "", "Cookie": let_in.headers["set-cookie"]})
    assert page.status_code == 200
    issuer.client_secret = "another"
    refused = await signed_in(ledger, issuer)
    assert (refused.status_code, "invalid_client" in refused.text) == (400, True)


async def test_without_an_issuer_there_is_a_token_alone(fresh: Ledger) -> None:
    assert "Sign in with" not in (await fresh.http.get("/sign-in")).text
    for path in (BEGIN, CALLBACK):
        assert (await fresh.http.get(path)).status_code == 404
    assert (await fresh.http.get("/sign-in/leaving")).headers["location"] == "/sign-in"


def test_an_attempt_is_what_its_cookie_says_and_lasts_ten_minutes() -> None:
    attempt = Attempt.begin(1000.9, "/usage?from=2026-07-01")
    assert Attempt.read(attempt.cookie, 1000 + SECONDS_MAX) == attempt
    assert Attempt.read(attempt.cookie, 1001 + SECONDS_MAX) is None
    assert Attempt.read(attempt.cookie, 999) is None
    made = {attempt.state, attempt.nonce, attempt.verifier, attempt.challenge, attempt.secret}
    assert len(made) == 5
    assert {len(one) for one in made} == {43}
    assert attempt.is_of(attempt.state)
    for bad in (
        "",
        "left",
        "1000",
        "1000.",
        f"1000.short.{'L3VzYWdl'}",
        f"x.{attempt.secret}.L3VzYWdl",
        attempt.cookie + "=",
        f"{'9' * 400}.{attempt.secret}.Lw",
    ):
        assert Attempt.read(bad, 1000) is None, bad
    assert Attempt.begin(0, "/" + "x" * 2000).next == "/"
    # Of the letters of others, each takes up to four bytes: browsers drop a cookie of more than 4,096 without a word.
    assert len(Attempt.begin(2e9, "/" + "\N{SNOWMAN}" * 999).cookie) < 3_800


def test_over_https_no_other_host_can_set_the_cookie() -> None:
    scope = {"type": "http", "scheme": "https", "server": ("ledger.example", 443), "path": "/", "headers": []}
    response = Response()
    keep_attempt(response, Request({**scope, "query_string": b""}), "value", 60)
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-usage_ledger_sign_in=value")
    assert {part.strip() for part in cookie.split(";")[1:]} >= {"HttpOnly", "Secure", "Path=/", "SameSite=lax"}
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    "wrong",
    [{"oidc_client_id": "pages"}, {"oidc_client_secret": "x"}, {"oidc_scopes": ["email"]}, {"oidc_scopes": []}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AccessSettings(**wrong)
