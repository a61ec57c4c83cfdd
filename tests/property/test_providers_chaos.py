"""For any sequence of faults: what the providers billed is what was settled, and what is listed as in doubt."""

import os
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from contracts.money import parse_nanos
from tests.emulators import Emulators, running_emulators
from tests.provider_orders import ALL, quick_providers, run

ORDERS, ORDERS_LONG = 24, int(os.environ.get("CHAOS_ORDERS", "600"))
#: Orders of one seed of the emulators' lot.
ORDERS_A_SEED = 12
RATE = 0.4
DEADLINE_SECONDS = 2.0
#: Not those that are there to make many pixels: an order takes its time in the emulator, then.
CHOSEN = [asked for asked in ALL if asked.operation in ("edit", "face_swap", "control", "image_to_3d")]


@pytest.fixture(scope="module")
def emulators() -> Iterator[Emulators]:
    with running_emulators() as running:
        ticks = count(1_000, 100)
        running.server.emulation.clock = lambda: float(
            next(ticks)
        )  # jobs end, and rate limits are over, at the next look
        yield running


async def _orders(emulators: Emulators, folder: Path, seed: int, orders: int) -> dict[str, int]:
    """Every single one is settled at what was billed for it, or in doubt and held at no less. How they ended."""
    ends: dict[str, int] = {}
    choice = random.Random(seed)
    async with quick_providers(emulators) as providers:
        for number in range(orders):
            if number % ORDERS_A_SEED == 0:
                emulators.http.post(f"{emulators.server.control_url}/reset")
                chaos = {"seed": seed * 1_000 + number, "rate": RATE, "seconds": 0.02}
                assert emulators.http.post(f"{emulators.server.control_url}/chaos", json=chaos).status_code == 204
            before = parse_nanos(emulators.billed()["total"])
            asked = choice.choice(CHOSEN)
            became = await run(providers, asked, folder, DEADLINE_SECONDS)
            owed = parse_nanos(emulators.billed()["total"]) - before
            fits = owed <= became.held_nanos if became.cost_nanos is None else owed == became.cost_nanos
            assert fits, (seed, number, str(asked), became, owed, emulators.hits()[-5:])
            end = became.code or "delivered"
            ends[end] = ends.get(end, 0) + 1
    return ends


async def test_billed_is_settled_or_in_doubt(emulators: Emulators, tmp_path: Path) -> None:
    ends = await _orders(emulators, tmp_path, 1, ORDERS)
    assert ends["delivered"] >= ORDERS / 4, ends
    assert len(ends) >= 2, ends


@pytest.mark.faults
async def test_billed_is_settled_or_in_doubt_for_long(emulators: Emulators, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", str(random.randrange(10**6))))
    ends = await _orders(emulators, tmp_path, seed, ORDERS_LONG)
    print(seed, ends)
    assert ends["delivered"] >= ORDERS_LONG / 4, (seed, ends)
