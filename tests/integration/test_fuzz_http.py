"""Both services against their own OpenAPI documents: no 500, no hang, no dead worker, no answer that is not listed."""

import asyncio
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from deploy.local.ports import free_port
from deploy.local.services import ServiceProcess
from tests import builders
from tests.builders import completed, limit
from tests.servers import WAIT_SECONDS, LedgerProcess
from tests.tokens import TOKEN

if TYPE_CHECKING:
    from tests.fuzzing_http import Found

#: Seconds for the ledger and for the image service. FUZZ_SEED repeats a run.
SHORT, LONG = (3.0, 0.5), (240.0, 60.0)
CALLER = {"X-Account-Id": builders.ACCOUNT, "X-User-Id": "ada"}
LETTERS = 3


@pytest.mark.parametrize(
    ("ledger_seconds", "image_seconds"),
    [pytest.param(*SHORT, id="short"), pytest.param(*LONG, id="long", marks=pytest.mark.faults)],
)
async def test_services_answer_as_their_documents_say(
    ledger_seconds: float,
    image_seconds: float,
    ledger_process: Callable[..., LedgerProcess],
    nats_url: str,
    tmp_path: Path,
) -> None:
    from tests.fuzzing_http import fuzz  # takes a second, of which each worker would spend one

    seed = int(os.environ.get("FUZZ_SEED", "4" if ledger_seconds < 60 else str(random.SystemRandom().randrange(2**32))))
    print(f"FUZZ_SEED={seed}")
    ledger = await asyncio.to_thread(ledger_process)
    image = _image_service(ledger, nats_url, tmp_path)
    await asyncio.to_thread(image.start)
    try:
        known = await _something_there(ledger)
        _right(await asyncio.to_thread(fuzz, ledger.url, ledger_seconds, seed, known, {}), "POST /v1/limit-checks")
        _right(await asyncio.to_thread(fuzz, image.url, image_seconds, seed, {}, CALLER), "POST /v1/images/generate")
        await _still_work(ledger, image)
    finally:
        image.stop()
    for log in (ledger.log_path, image.log_path):
        text = log.read_text()
        assert "internal_error" not in text, text[-4000:]
        assert "worker_died" not in text, text[-4000:]


def _image_service(ledger: LedgerProcess, nats_url: str, folder: Path) -> ServiceProcess:
    environment = {
        "IMAGE_PORT": str(port := free_port()),
        "IMAGE_LEDGER_URL": ledger.url,
        "IMAGE_LEDGER_TOKEN": TOKEN,
        "IMAGE_NATS_URL": nats_url,
        "IMAGE_DATA_DIR": str(folder / "image"),
        "IMAGE_PIXELS_MAX": "1000000",
    }
    command = (sys.executable, "-m", "image_service")
    return ServiceProcess("image", command, environment, folder / "image.log", port=port)


async def _something_there(ledger: LedgerProcess) -> dict[str, list[str]]:
    """One of each thing that a path can name."""
    async with ledger.client() as client:
        await client.set_up(limit(maximum=10**6), limit("spend", meter="cost", maximum="1000"))
        asked, settled = builders.check(), builders.check()
        await client.check(asked)
        await client.check(settled)
        await client.send(completed(settled))
        for _ in range(LETTERS):
            await client.send_one(completed(operation_id=settled["operation_id"]))
    return {
        "account_id": [builders.ACCOUNT],
        "plan_id": [builders.PLAN],
        "limit_id": ["images"],
        "operation_id": [asked["operation_id"], settled["operation_id"]],
        "dead_letter_id": [str(number) for number in range(1, LETTERS + 1)],
    }


def _right(found: "Found", operation: str) -> None:
    print(f"{found.cases} requests, {len(found.operations)} operations, answered {dict(found.statuses)}")
    assert operation in found.operations
    assert {200, 422} <= set(found.statuses)
    assert found.failures == {}, "\n\n".join(f"{what}: {how}" for what, how in found.failures.items())


async def _still_work(ledger: LedgerProcess, image: ServiceProcess) -> None:
    from tests.fuzzing_http import HEADERS

    async with ledger.client() as client:
        await client.put_plan(limit(maximum=10**6), plan_id="after")
        await client.put_account("after", plan_id="after")
        check = builders.check(account_id="after")
        assert (await client.check(check))["allowed"]
        assert (await client.send(completed(check)))["accepted"] == 1
    assert ledger.exit_code() is None
    assert image.exit_code() is None
    headers = {**HEADERS, **CALLER, "X-Account-Id": "after"}
    async with httpx.AsyncClient(base_url=image.url, headers=headers, timeout=WAIT_SECONDS) as http:
        made = await http.post("/v1/images/generate", json={"prompt": "a fox", "width": 64, "height": 64})
        assert made.status_code == 200, made.text
