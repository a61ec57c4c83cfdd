"""The image service while the ledger is away: as the account's plan says."""

from pathlib import Path

import pytest

from tests.builders import PLAN, limit
from tests.integration.image_harness import GENERATE, image_service, make_settings
from tests.integration.test_client_leases import Gate, amounts, leased, set_up, stands_at
from tests.servers import Ledger


@pytest.mark.parametrize("journal_way", ["http", "nats"])
async def test_what_was_leased_is_served_the_rest_refused_and_all_of_it_settled(
    ledger: Ledger, nats_url: str, tmp_path: Path, journal_way: str
) -> None:
    await set_up(ledger, limit("images", maximum=25), calls=2)
    quick = {"http_delivery_after_seconds": 0.2} if journal_way == "http" else {"nats_url": nats_url}
    async with Gate(ledger.url) as gate, image_service(make_settings(tmp_path, gate.url, **quick)) as client:
        assert (await client.post("/v1/images/generate", json=GENERATE)).status_code == 200
        await leased(ledger, 2)
        await gate.shut()
        answers = [await client.post("/v1/images/generate", json=GENERATE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert answers[2].json()["code"] == "ledger_unavailable"
        await gate.open_again()
        await stands_at(ledger, 3, 0)


async def test_an_account_whose_fail_mode_is_closed_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=25), plan_id=PLAN)
    async with Gate(ledger.url) as gate:
        settings = make_settings(tmp_path, gate.url, http_delivery_after_seconds=0.2)
        async with image_service(settings) as client:
            assert (await client.post("/v1/images/generate", json=GENERATE)).status_code == 200
            await stands_at(ledger, 1, 0)
            await gate.shut()
            answer = await client.post("/v1/images/generate", json=GENERATE)
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert await amounts(ledger) == (1, 0)
