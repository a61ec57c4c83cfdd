"""The image service with its limit checks over NATS, on the real ledger."""

from pathlib import Path

from tests.builders import limit
from tests.integration.image_harness import GENERATE, image_service, make_settings
from tests.servers import Ledger, eventually


async def test_operations_are_checked_over_nats_alone(ledger: Ledger, nats_url: str, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=2))
    nobody = "http://127.0.0.1:1"
    # Service tokens are looked up over HTTP alone; see deploy/guides/access.md.
    nats = {"nats_url": nats_url, "check_transport": "nats", "auth": "off"}
    settings = make_settings(tmp_path, nobody, **nats, ledger_timeout_seconds=5)
    async with image_service(settings) as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["ledger"]) == (200, {"ok": True})
        answers = [await client.post("/v1/images/generate", json=GENERATE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["decision"]["denial"]["limit_id"] == "images"

        async def recorded() -> bool:
            return bool((await ledger.limit())["settled"] == 2)

        await eventually(recorded, "both outcomes came over NATS")
    assert (await ledger.usage())["totals"]["calls"] == 2


async def test_without_a_ledger_on_nats_it_is_not_ready_and_starts_nothing(nats_url: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "http://127.0.0.1:1", nats_url=nats_url, check_transport="nats")
    async with image_service(settings) as client:
        answer = await client.post("/v1/images/generate", json=GENERATE)
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
        assert (await client.get("/readyz")).status_code == 503
