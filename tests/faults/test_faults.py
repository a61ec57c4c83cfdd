"""The fault suite: one stack, many runs, each a workload and faults drawn from the catalogue by its seed.

FAULTS_SEED=7 runs one seed again, FAULTS_ONLY=pause,half-open takes these faults alone, FAULTS_COUNT=30 so many.
FAULTS_SEEDS=20 FAULTS_SEED_FIRST=1 say how many runs, and from which seed on.
"""

import os
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.arena import Arena, arena_in
from tests.faults.cluster import NatsCluster
from tests.faults.ordeal import Ordeal

COUNT = int(os.environ.get("FAULTS_COUNT", "12"))
SEED_FIRST = int(os.environ.get("FAULTS_SEED") or os.environ.get("FAULTS_SEED_FIRST", "1"))
SHORT_COUNT = 4
#: In every run of the tests: quick ones, each on its own.
SHORT = ("kill", "kill-at-point", "pause", "half-open", "cut", "clock-jump", "duplicates", "poison")
SEEDS = range(SEED_FIRST, SEED_FIRST + (1 if "FAULTS_SEED" in os.environ else int(os.environ.get("FAULTS_SEEDS", "5"))))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arena(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Arena]:
    """One for all runs: each has accounts of its own, and meets what the earlier ones left behind."""
    async with arena_in(tmp_path_factory.mktemp("arena")) as ready:
        yield ready


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clustered(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Arena]:
    """The same on three NATS servers, with three copies of the stream."""
    folder = tmp_path_factory.mktemp("clustered")
    cluster = NatsCluster(folder)
    try:
        await cluster.start()
        async with arena_in(folder, cluster=cluster) as ready:
            yield ready
    finally:
        cluster.close()


@pytest.mark.faults
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_fails_nothing_is_lost_doubled_or_let_past_a_limit(arena: Arena, seed: int) -> None:
    verdict = await Ordeal(seed, COUNT).run(arena)
    assert verdict.operations, "nothing was done"
    if verdict.wrong:
        pytest.fail(str(verdict), pytrace=False)


@pytest.mark.faults
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_cluster_that_loses_its_leader_or_its_quorum_loses_nothing(clustered: Arena, seed: int) -> None:
    """Producers without a journal are among the customers: what three servers acknowledged has to be there."""
    verdict = await Ordeal(seed, COUNT).run(clustered)
    assert verdict.operations, "nothing was done"
    if verdict.wrong:
        pytest.fail(str(verdict), pytrace=False)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_few_faults_in_every_run_of_the_tests(arena: Arena) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(10**6))
    verdict = await Ordeal(
        seed, SHORT_COUNT, image_clients=3, direct_clients=3, pause_seconds_max=0.5, names=SHORT, outlast_holds=False
    ).run(arena)
    if verdict.wrong:
        pytest.fail(str(verdict), pytrace=False)
