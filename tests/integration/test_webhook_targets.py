"""What an endpoint answers, or is called, concerns nobody else, and is never an error of the ledger's."""

from collections.abc import AsyncIterator

import pytest

from contracts.problems import ProblemError
from ledger_service.webhook_administration import host_of
from ledger_service.webhook_targets import Sender, Targets
from tests.receivers import Receiver, receiving

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
