"""A ledger of the release before beside one of this version: holds that this one moved are rows like others to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.builders import Body, check, completed, failed, limit
from tests.servers import Client
from tests.tokens import AUTHORIZED
from tests.upgrades.fleet import Service, fleet_in
from tests.upgrades.versions import newest_release, present, released

ENDS = ("completed", "failed", "release", "extend")


@asynccontextmanager
async def client_of(service: Service) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=service.url, headers=AUTHORIZED, timeout=30, trust_env=False) as http:
        yield Client(http)


async def held(ledger: Client) -> dict[str, int]:
    return {one["limit_id"]: one["held"] for one in (await ledger.usage())["limits"]}


async def test_a_ledger_of_the_release_before_ends_moved_holds_as_they_are(tmp_path: Path) -> None:
    before = released(newest_release(), tmp_path)
    limits = [limit(name, selector={"provider": [name]}, meter="units", maximum=90) for name in ("local", "other")]
    with fleet_in(tmp_path, ledgers=2, images=0) as fleet:
        await fleet.migrate(before)
        older, newer = fleet.ledgers
        await older.start_as(before)
        await fleet.migrate(present())
        await newer.start_as(present())
        async with client_of(older) as old, client_of(newer) as new:
            await old.set_up(*limits)
            asked = {end: check(quantity=2) for end in ENDS}
            decisions = {end: await old.check(one) for end, one in asked.items()}
            moved = {end: await new.move(one, quantity=5) for end, one in decisions.items()}
            assert await held(old) == await held(new) == {"local": 0, "other": 20}
            # It repeats what is held, and not what was moved; and decides beside it.
            again: Body = {**asked["extend"], "provider": "other", "model": "render-2", "quantity": 5}
            assert await old.check(again) == moved["extend"]
            assert (await old.http.post("/v1/limit-checks", json=asked["extend"])).json()["code"] == "conflict"
            assert (await old.check(check(provider="other", quantity=71)))["denial"]["limit_id"] == "other"
            assert (await old.http.get(f"/v1/decisions/{asked['extend']['operation_id']}")).status_code == 200
            await old.send(completed(asked["completed"], provider="other", quantity=3), failed(asked["failed"]))
            assert (await old.release(asked["release"]["operation_id"])).status_code == 200
            assert (await old.extend(asked["extend"]["operation_id"], ttl_seconds=900)).status_code == 200
            assert await held(old) == await held(new) == {"local": 0, "other": 5}
            back = await new.move(moved["extend"], provider="local")
            assert (back["allowed"], await held(old)) == (True, {"local": 1, "other": 0})
        verified = await asyncio.to_thread(fleet.run, present(), "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
