"""Outcomes reach the ledger while NATS is away, so that no hold ends before its outcome is known."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.local.stack import Stack, StackOptions, running_stack
from tests.builders import account, limit, plan
from tests.servers import eventually

HOLD_SECONDS = 5
ENVIRONMENT = {
    "IMAGE_HOLD_SECONDS": str(HOLD_SECONDS),
    "IMAGE_PROVIDER_TIMEOUT_SECONDS": "2",
    "IMAGE_HTTP_DELIVERY_AFTER_SECONDS": "1",
}
CALLER = {"X-Account-Id": "acme", "X-User-Id": "ada"}
PICTURE = {"prompt": "a harbour", "width": 64, "height": 64}


@contextmanager
def paused(pid: int | None) -> Iterator[None]:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def images_limit(http: httpx.AsyncClient, stack: Stack) -> tuple[int, int]:
    """Settled and held."""
    usage = (await http.get(f"{stack.state.ledger_url}/v1/accounts/acme/usage")).json()
    [found] = usage["limits"]
    return found["settled"], found["held"]


async def test_a_long_outage_of_nats_lets_no_call_past_a_limit(tmp_path: Path) -> None:
    options = StackOptions(tmp_path / "data", environment=ENVIRONMENT)
    async with running_stack(options) as stack, httpx.AsyncClient(timeout=30) as http:
        http.headers["Authorization"] = f"Bearer {stack.token}"
        await http.put(f"{stack.state.ledger_url}/v1/plans/basic", json=plan(limit("images", maximum=1)))
        await http.put(f"{stack.state.ledger_url}/v1/accounts/acme", json=account())

        async def generate() -> int:
            answer = await http.post(f"{stack.state.image_url}/v1/images/generate", json=PICTURE, headers=CALLER)
            return answer.status_code

        with paused(stack.state.pids.nats):
            assert await generate() == 200
            await asyncio.sleep(HOLD_SECONDS + 1)  # the hold's own time, and one more sweep
            assert await images_limit(http, stack) == (1, 0)
            assert await generate() == 429

        async def log_rows() -> int:
            page = await http.get(f"{stack.state.ledger_url}/v1/accounts/acme/usage-log")
            return len(page.json()["items"])

        # What comes over NATS afterwards is known already.
        await asyncio.sleep(2)
        assert await log_rows() == 1
        assert await images_limit(http, stack) == (1, 0)


async def test_what_went_over_http_leaves_the_journal(tmp_path: Path) -> None:
    options = StackOptions(tmp_path / "data", environment=ENVIRONMENT)
    async with running_stack(options) as stack, httpx.AsyncClient(timeout=30) as http:
        http.headers["Authorization"] = f"Bearer {stack.token}"
        await http.put(f"{stack.state.ledger_url}/v1/plans/basic", json=plan())
        await http.put(f"{stack.state.ledger_url}/v1/accounts/acme", json=account())
        with paused(stack.state.pids.nats):
            for _ in range(3):
                await http.post(f"{stack.state.image_url}/v1/images/generate", json=PICTURE, headers=CALLER)

            async def journal_is_empty() -> bool:
                ready = (await http.get(f"{stack.state.image_url}/readyz")).json()
                return bool(ready["parts"]["journal"]["unconfirmed_events"] == 0)

            await eventually(journal_is_empty, "the journal lets go of what the ledger committed over HTTP")
