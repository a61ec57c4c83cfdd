"""What an endpoint answers, or is called, concerns nobody else, and is never an error of the ledger's."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from contracts.problems import ProblemError
from ledger_service.webhook_administration import host_of
from ledger_service.webhook_targets import Sender, Targets
from tests.builders import check, limit
from tests.conftest import StartLedger
from tests.receivers import HANG, QUICK_WEBHOOKS, Receiver, receiving
from tests.servers import eventually

BODY = b'{"data": {}}'


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender(Targets(["127.0.0.1"]), 5.0)
    yield sender
    await sender.close()


async def send(sender: Sender, receiver: Receiver, owner: str) -> int | None:
    answer, _, _ = await sender.send(receiver.url(), {"webhook-id": "1"}, BODY, owner)
    return answer.status


async def test_cookies_of_an_endpoint_are_kept_for_nobody(sender: Sender) -> None:
    """Names of many owners lead to one address, as those of a host for all, and a jar goes by that."""
    async with receiving(otherwise=(200, {"Set-Cookie": "session=1; Path=/"})) as one, receiving() as another:
        for receiver in (one, another, one):
            assert await send(sender, receiver, receiver.host) == 200
        assert [request.headers.get("cookie") for request in one.requests + another.requests] == [None] * 3


@pytest.mark.parametrize("url", ["https://xn--a/x", "https://xn--/x"])
async def test_a_name_in_punycode_that_says_nothing_is_refused(sender: Sender, url: str) -> None:
    with pytest.raises(ProblemError):
        Targets().check(url)
    answer, _, _ = await sender.send(url, {}, BODY, "")
    assert answer.error == "not a URL"
    assert host_of(url) == ""


async def test_an_account_whose_endpoints_all_hang_leaves_room_for_others(start_ledger: StartLedger) -> None:
    settings = {**QUICK_WEBHOOKS, "webhook_timeout_seconds": 8.0, "webhooks_in_flight_max": 8}
    ledger = await start_ledger(**settings)
    await ledger.put_plan(limit(maximum=0))
    async with receiving(otherwise=HANG) as hanging, receiving() as fine:
        for account, receiver, endpoints in (("greedy", hanging, 12), ("other", fine, 1)):
            await ledger.put_account(account)
            for number in range(endpoints):
                body = {"url": receiver.url(), "types": ["limit_check.denied"]}
                await ledger.http.put(f"/v1/accounts/{account}/webhooks/hook-{number}", json=body)
        assert not (await ledger.check(check(account_id="greedy")))["allowed"]
        await eventually(lambda: hanging.requests, "they hang")
        await asyncio.sleep(0.3)
        assert not (await ledger.check(check(account_id="other")))["allowed"]
        await eventually(lambda: fine.taken, "the other account is told meanwhile", within_seconds=4)
