"""The whole service with real provider clients: operations over HTTP, provider emulators behind it, a real ledger."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from contracts.money import format_nanos, parse_nanos
from image_service.providers.registry import REMOTES
from image_service.routing import Route
from tests.emulators import Emulators
from tests.integration.image_harness import eventually, image_service, picture, upload
from tests.integration.provider_harness import settings_for
from tests.provider_orders import emulator_of
from tests.servers import Ledger

GENERATE = {"prompt": "a lighthouse", "width": 512, "height": 512}
RELIGHT = {"provider": "stability", "kind": "relight", "prompt": "the sea at dusk"}


async def recorded(ledger: Ledger, count: int) -> list[dict[str, Any]]:
    """The usage log, newest last, once so many operations are in it."""

    async def are_there() -> bool:
        return len((await ledger.usage_log())["items"]) == count

    await eventually(are_there)
    items: list[dict[str, Any]] = (await ledger.usage_log())["items"]
    return sorted(items, key=lambda item: item["occurred_at"])


def spent(items: list[dict[str, Any]]) -> int:
    return sum(parse_nanos(item["cost"]) for item in items)


async def edit(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await client.post("/v1/images/edit", **upload(picture((256, 256)), **fields))


async def test_what_the_ledger_has_is_what_the_providers_billed(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    async with image_service(settings_for(tmp_path, priced, quick_emulators, nats_url)) as client:
        asked = await asyncio.gather(
            client.post("/v1/images/generate", json={**GENERATE, "provider": "stability", "variations": 2}),
            client.post("/v1/images/generate", json={**GENERATE, "provider": "wavespeed", "variations": 3}),
            edit(client, provider="wavespeed", kind="general", prompt="make it blue"),
            edit(client, provider="stability", kind="remove_background"),
        )
        assert [answer.status_code for answer in asked] == [200] * 4, [answer.text[:300] for answer in asked]
        assert [len(answer.json()["images"]) for answer in asked] == [2, 3, 1, 1]
        assert {(image["width"], image["height"]) for image in asked[0].json()["images"]} == {(512, 512)}
        told = sum(parse_nanos(answer.json()["cost"]) for answer in asked)
        log = await recorded(priced, 4)
        assert {item["outcome"] for item in log} == {"completed"}
    assert format_nanos(spent(log)) == format_nanos(told) == quick_emulators.billed()["total"]
    usage = await priced.usage()
    assert {name: of["cost"] for name, of in usage["by_provider"].items()} == quick_emulators.billed()["by_provider"]


async def test_providers_that_bill_tokens_or_megapixels_are_settled_at_what_they_billed(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    """A blocked prompt's tokens and the unit that a refusal costs among it; names are those of the price catalogue."""
    square = {"prompt": "a lighthouse", "width": 1024, "height": 1024}
    async with image_service(settings_for(tmp_path, priced, quick_emulators, nats_url)) as client:
        done = await asyncio.gather(
            client.post("/v1/images/generate", json={**square, "provider": "openai", "quality": "low"}),
            client.post("/v1/images/generate", json={**square, "provider": "google", "variations": 2}),
            client.post("/v1/images/generate", json={**square, "provider": "fal", "width": 1300, "variations": 2}),
            edit(client, provider="openai", kind="general", prompt="make it blue"),
            edit(client, provider="google", kind="general", prompt="make it blue"),
            edit(client, provider="fal", kind="remove_background"),
        )
        assert [answer.status_code for answer in done] == [200] * 6, [answer.text[:300] for answer in done]
        for provider in ("openai", "google", "fal"):
            refused = await client.post(
                "/v1/images/generate", json={**square, "prompt": "[refused] it", "provider": provider}
            )
            assert refused.json()["code"] == "operation_failed", refused.text[:300]
        log = await recorded(priced, 9)
    book = quick_emulators.billed()
    assert format_nanos(spent(log)) == book["total"]
    by_provider = {name: of["cost"] for name, of in (await priced.usage())["by_provider"].items()}
    names = {remote.name: emulator_of(remote) for remote in REMOTES}
    assert {names[name]: cost for name, cost in by_provider.items()} == book["by_provider"]
    refusals = {item["provider"]: parse_nanos(item["cost"]) for item in log if item["outcome"] == "failed"}
    assert refusals["openai"] == 0
    assert min(refusals["google"], refusals["fal"]) > 0


async def test_refusals_cost_nothing_and_doubt_is_listed_at_the_hold(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    secret = "ws-emulator-key"
    async with image_service(settings_for(tmp_path, priced, quick_emulators, nats_url)) as client:
        quick_emulators.fault("status", status=403, provider="stability")
        refused = await client.post("/v1/images/generate", json={**GENERATE, "provider": "stability"})
        quick_emulators.fault("close", provider="wavespeed", at="after", route="POST *")
        lost = await client.post("/v1/images/generate", json={**GENERATE, "provider": "wavespeed"})
        log = await recorded(priced, 2)
        for answer in (refused, lost):
            assert (answer.status_code, answer.json()["code"]) == (502, "operation_failed")
            assert secret not in answer.text
            assert "a lighthouse" not in answer.text
    assert [(item["outcome"], item["cost"]) for item in log] == [("failed", "0.000000000"), ("failed", "0.005000000")]
    assert [item["error"]["code"] for item in log] == ["content_filtered", "outcome_unknown"]
    assert quick_emulators.billed()["total"] == "0.005000000"


async def test_one_that_is_overloaded_leaves_it_to_the_next_and_that_one_is_counted(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    to = [
        {"provider": "stability", "model": "stable-image-ultra"},
        {"provider": "wavespeed", "model": "wavespeed-ai/flux-dev-ultra-fast"},
    ]
    route = Route.model_validate({"operation": "generate", "to": to})
    quick_emulators.fault("status", status=429, retry_after="120", provider="stability", times=10)
    async with image_service(settings_for(tmp_path, priced, quick_emulators, nats_url, routes=(route,))) as client:
        answer = await client.post("/v1/images/generate", json=GENERATE)
        assert (answer.status_code, answer.json()["provider"]) == (200, "wavespeed"), answer.text[:300]
        [item] = await recorded(priced, 1)
    assert (item["cost"], item["provider"]) == ("0.005000000", "wavespeed")
    assert quick_emulators.billed()["by_provider"] == {"wavespeed": "0.005000000"}


async def test_a_job_that_outlives_the_service_is_finished_by_the_next(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    quick_emulators.pace(queue=0.1, run=2.5)
    settings = settings_for(tmp_path, priced, quick_emulators, nats_url, shutdown_seconds=0.1)
    async with image_service(settings) as client:
        form = upload(picture((256, 256)), provider="wavespeed")
        answer = await client.post("/v1/images/image_to_3d", **form, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        await eventually(lambda: quick_emulators.billed()["jobs"])
        await asyncio.sleep(0.2)  # its id is kept a moment after it was billed
    assert (await priced.usage_log())["items"] == []
    async with image_service(settings) as client:
        [item] = await recorded(priced, 1)
        found = await client.get(answer.headers["location"])
        assert found.json()["status"] == "completed", found.text
    assert (item["outcome"], item["cost"]) == ("completed", quick_emulators.billed()["total"])
    assert len(quick_emulators.billed()["jobs"]) == 1


async def test_a_provider_without_a_key_says_which_setting_is_missing(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, priced, quick_emulators, nats_url, stability_key=None)
    async with image_service(settings) as client:
        answer = await client.post("/v1/images/generate", json={**GENERATE, "provider": "stability"})
        assert (answer.status_code, answer.json()["code"]) == (422, "provider_not_configured")
        assert "IMAGE_STABILITY_KEY" in answer.json()["detail"]
        assert answer.json()["errors"][0]["field"] == "provider"
    assert (await priced.usage_log())["items"] == []
