"""The image service's own overhead for an operation, limit checks over NATS, beside the sum of its parts: check, two
journal writes, two publishes, which is what the ledger's client does around a call that does nothing."""

import asyncio
import io
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import httpx
import orjson
import uvloop
from PIL import Image
from pydantic import SecretStr

from contracts.client import ClientSettings, LedgerClient
from tests.bench.load import Load, Measured, run_load
from tests.bench.machine import Servers, Service, service
from tests.bench.report import Figure, Report
from tests.bench.workload import account_id
from tests.tokens import AUTHORIZED, TOKEN

CALLERS = 64
LARGE_MIB = 10.0
PACE_PER_SECOND = 600.0
RATE_AIM, P50_AIM_MS = (">=", 600.0), ("<=", 8.0)
BODY = orjson.dumps({"prompt": "a lighthouse", "width": 64, "height": 64, "provider": "instant"})
HEADERS = f"X-Account-Id: {account_id(7)}\r\nX-User-Id: user-1\r\n"


def measure_operations(made: Servers, report: Report, operations: int, repeats: int) -> None:
    """``operations`` in each run: as fast as 64 callers can, and at 600 a second; a sixth as many large ones."""
    large = max(40, operations // 6)
    with service("ledger_service", "LEDGER_PORT", made.environment()) as ledger, tempfile.TemporaryDirectory() as data:
        environment = {
            "IMAGE_NATS_URL": made.nats_url,
            "IMAGE_LEDGER_URL": ledger.url,
            "IMAGE_LEDGER_TOKEN": TOKEN,
            "IMAGE_DATA_DIR": f"{data}/image",
            "IMAGE_CHECK_TRANSPORT": "nats",
            # What is measured is not how soon a busy machine gives up on itself.
            "IMAGE_LEDGER_CONNECT_TIMEOUT_SECONDS": "10",
        }
        with service("tests.bench.instant_image_service", "IMAGE_PORT", environment) as image:
            _load(image, 20, None, callers=1)  # its token is known from here on
            _load(image, operations // 4, None)
            before = image.cpu_seconds
            fast = [_load(image, operations, None) for _ in range(repeats)]
            cpu_ms = (image.cpu_seconds - before) * 1000 / (operations * repeats)
            paced = [_load(image, operations, PACE_PER_SECOND) for _ in range(repeats)]
            grown = asyncio.run(_grown_mib(image, large))
        bare = [_bare(made, ledger, f"{data}/bare-{index}.db", operations) for index in range(repeats)]
    rate = median(one.per_second for one in fast)
    parts = median(one.per_second for one, _ in bare)
    p50, parts_p50 = median(one.p50_ms for one in paced), median(one.p50_ms for one, _ in bare)
    report.add(
        Figure(f"operations of an instant provider, {CALLERS} at once", rate, "/s", RATE_AIM, "its parts alone", parts)
    )
    name = f"overhead of one, p50 at {PACE_PER_SECOND:g} a second from {CALLERS} callers"
    report.add(Figure(name, p50, "ms", P50_AIM_MS, f"its parts, {CALLERS} at once", parts_p50))
    report.add(Figure("its p99", median(one.p99_ms for one in paced), "ms"))
    name = f"image service's memory, growth under {large} operations of {LARGE_MIB:.0f} MiB"
    report.add(Figure(name, grown, "MiB", ("<=", 30)))
    parts_ms = median(cpu for _, cpu in bare)
    report.add(Figure("CPU of the image service for one", cpu_ms, "ms", None, "its parts alone", parts_ms))


def _load(image: Service, operations: int, per_second: float | None, callers: int = CALLERS) -> Measured:
    return run_load(
        Load(
            url=image.url,
            method="POST",
            callers=callers,
            requests=operations,
            make_request=_request,
            headers=HEADERS,
            per_second=per_second,
        )
    )


async def _grown_mib(image: Service, operations: int) -> float:
    """How much more the service holds after these operations than after the first of them."""
    body = _large_picture()
    headers = {**AUTHORIZED, "X-Account-Id": account_id(7), "X-User-Id": "user-1", "Accept": "image/*"}
    async with httpx.AsyncClient(base_url=image.url, headers=headers, timeout=120, trust_env=False) as client:

        async def call(numbers: Iterator[int]) -> None:
            for _ in numbers:
                answer = await client.post(
                    "/v1/images/edit",
                    data={"provider": "instant", "kind": "remove_background"},
                    files={"image": ("picture.png", body, "image/png")},
                )
                answer.raise_for_status()
                assert len(answer.content) == len(body)

        first, rest = iter(range(8)), iter(range(operations))
        await asyncio.gather(*(call(first) for _ in range(4)))
        before = image.resident_mib
        await asyncio.gather(*(call(rest) for _ in range(4)))
        return image.resident_mib - before


def _large_picture() -> bytes:
    """A PNG that cannot be compressed, about as large as its pixels."""
    side = int((LARGE_MIB * 1024 * 1024 / 3) ** 0.5)
    buffer = io.BytesIO()
    pixels = random.Random(7).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _request(index: int) -> tuple[str, bytes]:
    del index
    return "/v1/images/generate", BODY


def _bare(made: Servers, ledger: Service, journal: str, operations: int) -> tuple[Measured, float]:
    """Rate and latencies, and CPU in milliseconds for one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_in_process, made.nats_url, ledger.url, journal, operations).result()


def _in_process(nats_url: str, ledger_url: str, journal: str, operations: int) -> tuple[Measured, float]:
    return uvloop.run(_run_bare(nats_url, ledger_url, journal, operations))


async def _run_bare(nats_url: str, ledger_url: str, journal: str, operations: int) -> tuple[Measured, float]:
    settings = ClientSettings(
        source="bench",
        nats_url=nats_url,
        ledger_url=ledger_url,
        token=SecretStr(TOKEN),
        check_transport="nats",
        journal_path=Path(journal),
    )
    latencies: list[float] = []
    remaining = iter(range(operations))
    async with LedgerClient.open(settings) as client:

        async def call() -> None:
            for _ in remaining:
                begin = time.perf_counter()
                async with client.operation(
                    account_id=account_id(7), user_id="user-1", operation="generate", provider="instant",
                    model="instant-1", estimated_cost="0.01",
                ) as operation:  # fmt: skip
                    operation.completed(cost="0.01", response_bytes=8000)
                latencies.append(time.perf_counter() - begin)

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    cuts = quantiles(latencies, n=100)
    return Measured(operations / elapsed, cuts[49] * 1000, cuts[98] * 1000), cpu * 1000 / operations
