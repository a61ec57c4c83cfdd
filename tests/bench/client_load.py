"""Limit checks as a service in Python asks them: through the ledger's client, in a process of its own."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import quantiles

import uvloop
from pydantic import SecretStr

from contracts.client import ClientSettings, LedgerClient
from contracts.client.settings import Transport
from contracts.limits import LimitCheck
from tests.bench.load import Measured
from tests.tokens import TOKEN


@dataclass(frozen=True)
class ClientLoad:
    """``requests`` checks by ``callers`` at once; ``make_body`` builds the i-th one's body."""

    transport: Transport
    nats_url: str
    ledger_url: str
    callers: int
    requests: int
    make_body: Callable[[int], bytes]


def run_client_load(load: ClientLoad) -> Measured:
    """Sends the load and answers rate and latencies. Raises what the client raises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_in_process, load).result()


def _in_process(load: ClientLoad) -> Measured:
    return uvloop.run(_send(load))


async def _send(load: ClientLoad) -> Measured:
    settings = ClientSettings(
        source="bench",
        nats_url=load.nats_url,
        ledger_url=load.ledger_url,
        token=SecretStr(TOKEN),
        check_transport=load.transport,
    )
    # Built beforehand, so that building them does not count.
    remaining = iter([LimitCheck.model_validate_json(load.make_body(index)) for index in range(load.requests)])
    latencies: list[float] = []
    async with LedgerClient.open(settings) as client:

        async def call() -> None:
            for check in remaining:
                begin = time.perf_counter()
                await client.check(check)
                latencies.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(load.callers)))
        elapsed = time.perf_counter() - begin
    cuts = quantiles(latencies, n=100)
    return Measured(load.requests / elapsed, cuts[49] * 1000, cuts[98] * 1000)
