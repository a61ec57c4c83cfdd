"""The image service on the whole one-machine stack: rate and memory with small pictures."""

import asyncio
import tempfile
from pathlib import Path

import httpx
import orjson

from deploy.local.stack import StackOptions, running_stack
from tests.bench.machine import Service
from tests.bench.report import Figure, Report

CALLERS = 8
SIDE_PIXELS = 64
HEADERS = {"X-Account-Id": "bench", "X-User-Id": "user-1"}
BODY = orjson.dumps({"prompt": "a lighthouse in fog", "width": SIDE_PIXELS, "height": SIDE_PIXELS, "seed": 7})


def measure_images(report: Report, operations: int) -> None:
    rate, ledger_mib, image_mib = asyncio.run(_measure(operations))
    name = f"generate operations, {SIDE_PIXELS} x {SIDE_PIXELS} pixels, {CALLERS} at once, whole stack"
    report.add(Figure(name, rate, "/s"))
    report.add(Figure("image service's memory under them", image_mib, "MiB", ("<=", 200)))
    report.add(Figure("ledger's memory under them", ledger_mib, "MiB", ("<=", 200)))


async def _measure(operations: int) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder:
        async with running_stack(StackOptions(Path(folder) / "data")) as stack, httpx.AsyncClient(timeout=30) as client:
            state = stack.state
            client.headers["Authorization"] = f"Bearer {stack.token}"
            await client.put(f"{state.ledger_url}/v1/plans/bench", json={"name": "Bench"})
            await client.put(f"{state.ledger_url}/v1/accounts/bench", json={"plan_id": "bench"})
            loop = asyncio.get_running_loop()
            begin = loop.time()
            remaining = iter(range(operations))

            async def call() -> None:
                for _ in remaining:
                    answer = await client.post(
                        f"{state.image_url}/v1/images/generate",
                        content=BODY,
                        headers={**HEADERS, "Content-Type": "application/json"},
                    )
                    answer.raise_for_status()

            await asyncio.gather(*(call() for _ in range(CALLERS)))
            rate = operations / (loop.time() - begin)
            pids = state.pids
            assert pids.ledger is not None
            assert pids.image is not None
            return rate, Service("", pids.ledger).memory_mib, Service("", pids.image).memory_mib
