"""The long form of tests/e2e/test_crashes.py: many seeds, more kills.

FAULTS_SEEDS=20 FAULTS_SECONDS=60 FAULTS_SEED_FIRST=1 say how many runs of how long, and from which seed on.
"""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.driver import Ordeal, StackProcess, stack_in

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("FAULTS_SECONDS", "20"))
SEED_FIRST = int(os.environ.get("FAULTS_SEED_FIRST", "1"))
SEEDS = range(SEED_FIRST, SEED_FIRST + int(os.environ.get("FAULTS_SEEDS", "5")))
#: Shorter than a run, so that holds of operations that died end in it; longer than any outcome takes to arrive.
HOLD_SECONDS = 25
EXPIRY_SECONDS_MAX = 40.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """One for all runs: each has accounts of its own, and meets what the earlier ones left behind."""
    yield from stack_in(tmp_path_factory.mktemp("stack"), {"IMAGE_HOLD_SECONDS": str(HOLD_SECONDS)})


@pytest.mark.parametrize("seed", SEEDS)
async def test_kills_at_random_moments_lose_nothing_and_double_nothing(stack: StackProcess, seed: int) -> None:
    books = await Ordeal(seed, SECONDS, expiry_seconds=EXPIRY_SECONDS_MAX).run(stack)
    assert books.rows, "no operation ended in the usage log"
    assert books.wrong == []
