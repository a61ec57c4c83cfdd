"""Callers that go away at any moment, services that stop at any moment, providers that do anything: the ledger has what
the providers billed, or doubt at no less; every operation once; nothing stays held, no file is left."""

import asyncio
import os
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from contracts.money import parse_nanos
from image_service.routing import Route
from tests.emulators import Emulators
from tests.integration.image_harness import eventually, image_service, picture, upload
from tests.integration.provider_harness import settings_for
from tests.servers import Ledger

SEED = int(os.environ.get("CHAOS_SEED", "7"))
#: Services one after the other, and requests to each.
STOPS = int(os.environ.get("CHAOS_STOPS", "2"))
REQUESTS = 24
PICTURE = picture((256, 256))
RATE = 0.3
ROUTE = Route.model_validate(
    {
        "operation": "generate",
        "model": "any",
        "to": [
            {"provider": "stability", "model": "stable-image-core"},
            {"provider": "wavespeed", "model": "wavespeed-ai/flux-dev-ultra-fast"},
        ],
    }
)


def request_of(chance: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    headers = {}
    if chance.random() < 0.4:
        headers["Idempotency-Key"] = f"key-{number // 2}-{number % 2 if chance.random() < 0.5 else 0}"
    if chance.random() < 0.3:
        headers["Prefer"] = "respond-async"
    body = {"prompt": "a lighthouse", "width": 512, "height": 512}
    what = chance.randrange(6)
    if what == 0:
        relit = upload(PICTURE, provider="stability", kind="relight", prompt="the sea")
        return "edit", {**relit, "headers": headers}
    if what == 1:
        return "image_to_3d", {**upload(PICTURE, provider="wavespeed"), "headers": headers}
    if what == 2:
        return "edit", {**upload(PICTURE, provider="local", kind="remove_background"), "headers": headers}
    routes: list[dict[str, Any]] = [
        {"model": "any"},
        {"provider": "wavespeed"},
        {"provider": "stability", "variations": 2},
    ]
    return "generate", {"json": {**body, **chance.choice(routes)}, "headers": headers}


async def ask(client: httpx.AsyncClient, chance: random.Random, number: int, told: dict[str, int]) -> None:
    operation, asked = request_of(chance, number)
    await asyncio.sleep(chance.uniform(0, 0.5))
    with suppress(httpx.HTTPError, TimeoutError, RuntimeError):  # the last: the service has stopped
        async with asyncio.timeout(chance.choice([0.02, 0.1, 0.3, 0.8, 10.0])):
            answer = await client.post(f"/v1/images/{operation}", **asked)
            assert answer.status_code < 500 or answer.status_code in (502, 503), answer.text
            if answer.status_code == 200:
                told[answer.json()["operation_id"]] = parse_nanos(answer.json()["cost"])


async def test_whoever_leaves_and_whatever_stops_every_operation_is_settled_once_at_what_it_cost(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, tmp_path: Path
) -> None:
    chance, told = random.Random(SEED), dict[str, int]()
    settings = settings_for(
        tmp_path, priced, quick_emulators, nats_url, routes=(ROUTE,), shutdown_seconds=0.2,
        provider_timeout_seconds=2.0, long_provider_timeout_seconds=2.0, doubt_seconds=4.0, hold_seconds=120,
    )  # fmt: skip
    chaos = {"seed": SEED, "rate": RATE, "seconds": 0.3}
    assert quick_emulators.http.post(f"{quick_emulators.server.control_url}/chaos", json=chaos).status_code == 204
    for stop in range(STOPS):
        async with image_service(settings) as client:
            asking = [asyncio.create_task(ask(client, chance, stop * REQUESTS + n, told)) for n in range(REQUESTS)]
            await asyncio.sleep(chance.uniform(0.2, 2.5))
        await asyncio.gather(*asking)
    async with image_service(settings) as client:

        async def all_is_known() -> bool:
            left = (await client.get("/v1/in-doubt")).json()
            return not left["operations"] and not left["unconfirmed_events"]

        await eventually(all_is_known, 40)
        assert (await client.get("/readyz")).status_code == 200
    items = (await priced.usage_log(limit=1000))["items"]
    assert max(Counter(item["operation_id"] for item in items).values()) == 1
    costs = {item["operation_id"]: parse_nanos(item["cost"]) for item in items}
    assert {name: costs.get(name) for name in told} == told
    doubt = sum(
        parse_nanos(item["cost"]) for item in items if (item.get("error") or {}).get("code") == "outcome_unknown"
    )
    local = sum(parse_nanos(item["cost"]) for item in items if item["provider"] == "local")
    known, owed = sum(costs.values()) - doubt - local, parse_nanos(quick_emulators.billed()["total"])
    ends = Counter((item.get("error") or {}).get("code", "completed") for item in items)
    print(SEED, len(items), ends, "known", known, "doubt", doubt, "billed", owed)
    assert known <= owed <= known + doubt, ends
    usage = await priced.usage()
    assert {limit["limit_id"]: float(limit["held"]) for limit in usage["limits"]} == {"money": 0, "calls": 0}
    assert list((settings.data_dir / "spool").glob("*")) == []
