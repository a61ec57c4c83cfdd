"""How often one caller may call: each on its own, told when to come back, in both services alike."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from contracts.access.authenticator import Authenticator, Memory
from contracts.access.bearer import SESSION_COOKIE
from contracts.access.principal import ALL_SCOPES, Principal
from contracts.access.rates import Bucket, Rate, RateLimited, RateRules, Rates, neighbourhood
from contracts.access.service_tokens import make_token
from contracts.access.settings import AccessSettings
from contracts.problems import ProblemError
from tests.builders import ACCOUNT
from tests.conftest import StartLedger
from tests.integration.image_harness import GENERATE, image_service, make_settings
from tests.servers import Ledger
from tests.tokens import TOKEN

OFF = Rate(0, 1)
PATH = f"/v1/accounts/{ACCOUNT}/usage"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def make(ledger: Ledger, name: str, **more: object) -> dict[str, str]:
    scopes = ["limits:check", "usage:read"]
    answer = await ledger.http.post("/v1/tokens", json={"name": name, "scopes": scopes, **more})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def statuses(http: httpx.AsyncClient, headers: dict[str, str], times: int, path: str = PATH) -> list[int]:
    return [(await http.get(path, headers=headers)).status_code for _ in range(times)]


def test_a_burst_and_then_the_pace() -> None:
    clock = Clock()
    bucket = Bucket(Rate(2.0, 5), clock)
    assert [bucket.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 0.5]
    assert bucket.take("b") == 0
    clock.now += 0.25
    assert bucket.take("a") == pytest.approx(0.25)
    assert bucket.wait("a") == pytest.approx(0.25)
    clock.now += 0.25
    assert (bucket.take("a"), bucket.take("a")) == (0, 0.5)
    clock.now += 1000
    assert [bucket.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 0.5]
    # An hour of asking all the time brings what the pace is, and the burst.
    taken = 0
    for _ in range(36_000):
        clock.now += 0.1
        taken += bucket.take("a") == 0
    assert taken == 7_200


def test_callers_that_are_remembered_are_bounded_and_the_busy_ones_stay() -> None:
    clock = Clock()
    bucket = Bucket(Rate(0.001, 2), clock, keys_max=100)
    for number in range(1_000):
        clock.now += 0.01
        bucket.take("busy")
        bucket.take(f"once {number}")
    assert len(bucket) == 100
    assert bucket.take("busy") > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("testclient", "testclient", True),
        (":no address", ":nor this", False),
    ],
)
def test_one_owner_of_addresses_is_one_caller(one: str, other: str, same: bool) -> None:
    assert (neighbourhood(one) == neighbourhood(other)) is same


def test_callers_are_told_apart_by_issuer_subject_and_token() -> None:
    rates = Rates(RateRules(Rate(1, 1), OFF, OFF), Clock())
    callers = [
        Principal("ada", ALL_SCOPES, "acme", token_id="1"),
        Principal("ada", ALL_SCOPES, "acme", token_id="2"),
        Principal("ada", ALL_SCOPES, "acme", issuer="https://one.example"),
        Principal("ada", ALL_SCOPES, "acme", issuer="https://two.example"),
        Principal("eve", ALL_SCOPES, "acme", issuer="https://one.example"),
        Principal("", ALL_SCOPES, "acme", issuer="https://one.example"),
        Principal("", ALL_SCOPES, "other", issuer="https://one.example"),
    ]
    for caller in callers:
        rates.take(caller)
    for caller in callers:
        with pytest.raises(RateLimited):
            rates.take(caller)
    # A new token of the same subject is no new caller; a service that is bound to no account is not bounded here.
    with pytest.raises(RateLimited):
        rates.take(Principal("eve", frozenset(), "acme", issuer="https://one.example", expires_at=9e9))
    for _ in range(100):
        rates.take(Principal("image-service", ALL_SCOPES, any_account=True, token_id="3"))


async def test_one_token_too_often_is_told_when_to_come_back_and_nobody_else_is(start_ledger: StartLedger) -> None:
    ledger = await start_ledger(rate_per_second=4, rate_burst=3)
    await ledger.set_up()
    hasty, calm = await make(ledger, "hasty", account_id=ACCOUNT), await make(ledger, "calm", account_id=ACCOUNT)
    assert await statuses(ledger.http, hasty, 5) == [200, 200, 200, 429, 429]
    answer = await ledger.http.get(PATH, headers=hasty)
    assert answer.json()["code"] == "rate_limited"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["ratelimit-policy"] == '"token";q=3;w=1'
    assert re.fullmatch(r'"token";r=0;t=1', answer.headers["ratelimit"])
    assert await statuses(ledger.http, calm, 3) == [200, 200, 200]
    # Tokens of services, and what is open, go on; so does the hasty one, once it has waited.
    assert await statuses(ledger.http, {}, 10) == [200] * 10
    assert await statuses(ledger.http, hasty, 3, "/livez") == [200] * 3
    await asyncio.sleep(1)
    assert await statuses(ledger.http, hasty, 1) == [200]


async def test_services_are_bounded_where_somebody_says_so(start_ledger: StartLedger) -> None:
    ledger = await start_ledger(rate_unbound_per_second=0.1, rate_unbound_burst=3)
    assert await statuses(ledger.http, {}, 4, "/v1/tokens") == [200, 200, 200, 429]


async def test_whoever_guesses_tokens_is_no_longer_looked_up() -> None:
    clock, known, asked = Clock(), make_token(), 0

    async def find(token: str) -> Principal | None:
        nonlocal asked
        asked += 1
        return Principal("good", ALL_SCOPES, token_id="1") if token in (known, later) else None

    later = make_token()
    rates = Rates(RateRules(OFF, OFF, Rate(1, 10)), clock)
    access = Authenticator(find, Memory(30), rates=rates, clock=clock, wall_clock=clock)

    async def answer(token: str, address: str = "10.0.0.9") -> str:
        try:
            return (await access.authenticate(token.encode(), address)).subject
        except ProblemError as error:
            return error.kind.code

    assert await answer(known) == "good"
    answers = [await answer(make_token()) for _ in range(50)]
    assert answers == ["unauthenticated"] * 10 + ["rate_limited"] * 40
    assert asked == 11, "what is refused costs no look-up"
    # Neither the right guess gets through, nor does the same wrong one cost less.
    assert await answer(later) == "rate_limited"
    # Who was good before goes on, even when it has to be looked up again; so does everybody elsewhere.
    assert await answer(known) == "good"
    access.forget()
    assert (await answer(known), asked) == ("good", 12), "looked up again, as it was good before"
    clock.now += 31
    for _ in range(20):
        await answer(make_token())
    before = asked
    assert await answer(known) == "good"
    assert asked == before + 1, "looked up again, as it was good before"
    assert await answer(later, "10.0.0.10") == "good"
    clock.now += 11
    assert await answer(make_token()) == "unauthenticated"


async def test_the_ledger_answers_guesses_429(start_ledger: StartLedger) -> None:
    ledger = await start_ledger(rate_failures_per_second=0.2, rate_failures_burst=4)
    assert await statuses(ledger.http, {}, 1, "/v1/tokens") == [200]
    bad = {"Authorization": f"Bearer {make_token()}"}
    assert await statuses(ledger.http, bad, 6) == [401] * 4 + [429] * 2
    answer = await ledger.http.get(PATH, headers=bad)
    assert answer.headers["ratelimit-policy"] == '"failures";q=4;w=20'
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    # No token at all costs nothing, and is told so.
    async with httpx.AsyncClient(base_url=ledger.url) as http:
        assert await statuses(http, {}, 3) == [401] * 3
    assert await statuses(ledger.http, {}, 1, "/v1/tokens") == [200]


async def test_the_image_service_keeps_the_same_bounds(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up()
    app = await make(ledger, "app", account_id=ACCOUNT)
    settings = make_settings(
        tmp_path, ledger.url, ledger_token=TOKEN, rate_per_second=0.1, rate_burst=2,
        rate_failures_per_second=0.1, rate_failures_burst=2,
    )  # fmt: skip
    async with image_service(settings) as client:
        for name in ("X-Account-Id", "X-User-Id"):
            del client.headers[name]

        async def generate(headers: dict[str, str]) -> int:
            return (await client.post("/v1/images/generate", json=GENERATE, headers=headers)).status_code

        assert [await generate(app) for _ in range(3)] == [200, 200, 429]
        bad = {"Authorization": f"Bearer {make_token()}"}
        assert [await generate(bad) for _ in range(3)] == [401, 401, 429]


def test_settings_say_what_is_off_and_what_is_nonsense() -> None:
    rules = AccessSettings(rate_per_second=0).rate_rules
    assert not Bucket(rules.bound, Clock()).is_on
    assert not Bucket(AccessSettings().rate_rules.unbound, Clock()).is_on
    assert Bucket(AccessSettings().rate_rules.bound, Clock()).is_on
    for wrong in ({"rate_per_second": -1}, {"rate_burst": 0}, {"connections_per_address_max": 0}):
        with pytest.raises(ValidationError):
            AccessSettings.model_validate(wrong)


async def test_a_page_says_when_to_come_again_as_the_api_does(scripted_ledger, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, scripted_ledger.url, rate_unbound_per_second=0.2, rate_unbound_burst=1)
    async with image_service(settings) as client:
        cookie = {"Cookie": f"{SESSION_COOKIE}={TOKEN}"}
        # Refused are what the page asks the API, then the page itself.
        for _ in range(2):
            page = await client.get("/", headers=cookie)
            assert page.status_code == 429
            assert page.headers["content-type"].startswith("text/html")
            assert 1 <= int(page.headers["Retry-After"]) <= 11
