"""Operations whose provider failed, all at once: no more of them go on than the limits of the next provider let."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from contracts.client import LedgerClient, LedgerUnavailable, OutcomeNotRecorded
from contracts.events import event_to_json
from contracts.limits import Decision
from image_service.providers.base import ProviderError
from image_service.providers.registry import Providers
from image_service.routing import Route, Target
from tests.builders import limit
from tests.integration.client_harness import Proxy, an_operation, settings_of
from tests.integration.image_harness import GENERATE, image_service, make_settings
from tests.integration.scripted_provider import ScriptedProvider, raising
from tests.rebuilds import assert_agrees_with_the_log
from tests.servers import Ledger, LedgerProcess, eventually

AT_ONCE, ROOM = 50, 7
SECOND = limit("second", maximum=ROOM, selector={"provider": ["second"]})
#: Room for every operation, once.
ALL = limit("all", maximum=AT_ONCE)
DOWN = ProviderError("unavailable", "down", elsewhere=True, status_code=503)
TARGETS = tuple(Target(provider=name, model="paint-1") for name in ("first", "second"))
TO = (Route(operation="generate", model="best", to=TARGETS),)


@asynccontextmanager
async def clients(urls: list[str | None], nats_url: str | None, transport: str) -> AsyncIterator[list[LedgerClient]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                LedgerClient.open(settings_of(url, nats_url, check_transport=transport, timeout_seconds=20))
            )
            for url in urls
        ]


@pytest.mark.parametrize("transport", ["http", "nats"])
async def test_of_fifty_at_once_as_many_go_on_as_there_is_room_for_at_two_ledgers(
    ledger_process: Callable[..., LedgerProcess], nats_url: str, database_url: str, transport: str
) -> None:
    processes = [ledger_process(), ledger_process()]
    all_hold = asyncio.Barrier(AT_ONCE)
    async with processes[0].client() as ledger:
        await ledger.set_up(ALL, SECOND)

        async def run(client: LedgerClient) -> Decision:
            async with client.operation(**an_operation(provider="first")) as operation:
                await all_hold.wait()
                decision = await operation.move(provider="second", model="render-2", estimated_cost="0.05")
                if decision.allowed:
                    operation.completed(cost="0.05")
                else:
                    operation.failed("unavailable", "no room for another provider")
                return decision

        urls: list[str | None] = [one.url for one in processes] if transport == "http" else [None]
        async with clients(urls, nats_url if transport == "nats" else None, transport) as some:
            decisions = await asyncio.gather(*(run(some[number % len(some)]) for number in range(AT_ONCE)))
        assert [one.allowed for one in decisions].count(True) == ROOM
        assert {one.denial.limit_id for one in decisions if one.denial} == {"second"}

        async def settled() -> bool:
            states = {one["limit_id"]: (one["settled"], one["held"]) for one in (await ledger.usage())["limits"]}
            return states == {"all": (ROOM, 0), "second": (ROOM, 0)}

        await eventually(settled, "all have their outcome, and nothing is held")
    await assert_agrees_with_the_log(database_url, an_operation()["account_id"])


@pytest.fixture
async def prices(ledger: Ledger) -> None:
    for provider, price in (("first", "0.01"), ("second", "0.1")):
        variants = [{"when": {}, "price": price}]
        body = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": variants}
        answer = await ledger.http.put(f"/v1/prices/{provider}/generate/paint-1", json=body)
        assert answer.status_code == 200, answer.text


@asynccontextmanager
async def images(ledger: Ledger, nats_url: str, folder: Path, providers: Providers) -> AsyncIterator[Callable[[], Any]]:
    settings = make_settings(folder, ledger.url, nats_url=nats_url, ledger_timeout_seconds=20, shutdown_seconds=10)
    async with image_service(settings, providers) as http:
        yield lambda: http.post("/v1/images/generate", json={**GENERATE, "model": "best"})


def together(number: int) -> Callable[[Any], Any]:
    """Fails once so many calls run."""
    all_run = asyncio.Barrier(number)

    async def step(attempt: Any) -> Any:
        await all_run.wait()
        return await raising(DOWN)(attempt)

    return step


async def test_images_that_fall_back_at_once_stop_at_the_limit_of_the_second_provider(
    ledger: Ledger, prices: None, nats_url: str, tmp_path: Path
) -> None:
    await ledger.set_up(ALL, SECOND)
    first, second = ScriptedProvider("first", otherwise=together(AT_ONCE)), ScriptedProvider("second")
    async with images(ledger, nats_url, tmp_path, Providers((first, second), TO)) as generate:
        answers = await asyncio.gather(*(generate() for _ in range(AT_ONCE)))
        assert sorted(one.status_code for one in answers) == [200] * ROOM + [502] * (AT_ONCE - ROOM)
        assert second.calls == ROOM

        async def settled() -> bool:
            return bool((await ledger.usage())["totals"]["failures"] == AT_ONCE - ROOM)

        await eventually(settled, "all have their outcome")
    assert (await ledger.limit("second"))["settled"] == ROOM
    assert (await ledger.limit("all"))["held"] == 0


async def test_images_that_fall_back_to_a_dearer_provider_never_pass_a_limit_on_cost(
    ledger: Ledger, prices: None, nats_url: str, tmp_path: Path
) -> None:
    number = 20
    await ledger.set_up(limit("spend", meter="cost", maximum="0.5"))
    first, second = ScriptedProvider("first", otherwise=together(number)), ScriptedProvider("second")
    async with images(ledger, nats_url, tmp_path, Providers((first, second), TO)) as generate:
        answers = await asyncio.gather(*(generate() for _ in range(number)))
        # 20 of 0.01 are held: three more have room at once, and five once those that fail give theirs back.
        assert 3 <= second.calls <= 5
        assert [one.status_code for one in answers].count(200) == second.calls

        async def settled() -> bool:
            return bool((await ledger.limit("spend"))["held"] == "0.000000000")

        await eventually(settled, "nothing is held")
    spend = await ledger.limit("spend")
    assert Decimal(spend["settled"]) == second.calls * Decimal("0.1")
    assert Decimal(spend["available"]) >= 0


async def test_a_move_whose_answer_is_lost_is_asked_for_again(ledger: Ledger) -> None:
    await ledger.set_up(limit("first", selector={"provider": ["first"]}), SECOND)
    async with (
        Proxy(ledger.url) as proxy,
        LedgerClient.open(settings_of(proxy.url, None)) as client,
        client.operation(**an_operation(provider="first")) as operation,
    ):
        proxy.lose_answers = True
        moving = asyncio.create_task(operation.move(provider="second", model="render-2"))
        await eventually(lambda: proxy.lost_bytes, "the ledger answered, and nobody heard it")
        proxy.lose_answers = False
        decision = await moving
        assert (decision.allowed, operation.decision) == (True, decision)
        assert [(await ledger.limit(name))["held"] for name in ("first", "second")] == [0, 1]
        operation.completed(cost="0.05")
    assert (await ledger.limit("second"))["settled"] == 1


async def test_a_move_that_nobody_answers_is_in_nobodys_way(ledger: Ledger) -> None:
    await ledger.set_up(limit("first", selector={"provider": ["first"]}), SECOND)

    async def run(client: LedgerClient, proxy: Proxy) -> None:
        async with client.operation(**an_operation(provider="first")) as operation:
            proxy.lose_answers = True
            with pytest.raises(LedgerUnavailable) as caught:
                await operation.move(provider="second", model="render-2")
            assert caught.value.outcome_unknown
            # It has happened, and what else is asked for then changes nothing.
            assert [(await ledger.limit(name))["held"] for name in ("first", "second")] == [0, 1]
            moved = await ledger.ask_move(operation.decision.model_dump(mode="json"), provider="third")
            assert (moved.status_code, moved.json()["code"]) == (409, "conflict")
            operation.failed("unavailable", "down", cost="0.01")

    settings = {"timeout_seconds": 1.0, "delivery_timeout_seconds": 1.0, "drain_seconds": 1.0}
    async with Proxy(ledger.url) as proxy, LedgerClient.open(settings_of(proxy.url, None, **settings)) as client:
        with pytest.raises(OutcomeNotRecorded) as lost:
            await run(client, proxy)
    await ledger.send_one(event_to_json(lost.value.event))
    assert [(await ledger.limit(name))["held"] for name in ("first", "second")] == [0, 0]
