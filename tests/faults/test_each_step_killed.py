"""An operation killed at each of its steps in turn: after a restart it is completed, resumed or was never begun.

The steps are not listed here: a first run writes down all that there are. The service that is killed is the real one in
a process of its own, with hooks that its start script puts in; the one that is started afterwards has none.
"""

from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.builders import limit
from tests.faults.killed_steps import Rows, Service, Write, ended, hooked, possible_ends, ready, requests_to, usage
from tests.servers import Ledger, eventually

pytestmark = pytest.mark.faults

GENERATE = {"prompt": "a lighthouse at dusk", "width": 48, "height": 32, "seed": 7}
#: What must be among the steps, or the hooks do not hook.
EXPECTED = {
    "Journal.claim in transaction", "Journal.claim on disk",
    "Journal.begin in transaction", "Journal.begin on disk",
    "provider before", "provider after",
    "outcome file before", "outcome file after",
    "Journal.finish in transaction", "Journal.finish on disk",
    "publish before", "publish after",
    "confirmation before", "_confirm_some in transaction", "_confirm_some on disk", "confirmation after",
}  # fmt: skip
INTERRUPTED: Rows = [("failed", "interrupted", 0)]
COMPLETED: Rows = [("completed", None, 10_000_000)]
WRITES = (Write("Journal.begin", 1, INTERRUPTED), Write("Journal.finish", 1, COMPLETED))

SCRIPT = hooked(
    """
from image_service.providers.local import LocalProvider
around(LocalProvider, "generate", "provider")
""",
    ("claim", "begin", "finish"),
)


async def test_killed_at_each_step_it_is_completed_resumed_or_never_begun(
    ledger: Ledger, nats_url: str, database: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await ledger.put_plan(limit(window="lifetime", maximum=10))

    async def unharmed(service: Service, account_id: str) -> None:
        async with requests_to(service, account_id) as http:
            await ready(service, http)
            assert (await http.post("/v1/images/generate", json=GENERATE)).status_code == 200
        await eventually(lambda: service.left() == (0, 0), "everything is confirmed")

    first = Service(tmp_path / "unharmed", ledger.url, nats_url)
    await ledger.put_account("unharmed")
    with first.running("-c", SCRIPT):
        await unharmed(first, "unharmed")
    # How often the ledger confirms is chance; that it publishes two events is not.
    steps = [step for step in first.steps() if step.endswith(" 1") or (step.startswith("publish") and step[-1] == "2")]
    assert {step.rpartition(" ")[0] for step in steps} == EXPECTED
    print(f"{len(steps)} steps")

    ends = dict[str, object]()
    for number, step in enumerate(steps):
        account_id = f"killed-{number}"
        await ledger.put_account(account_id)
        service = Service(tmp_path / account_id, ledger.url, nats_url)
        with service.running("-c", SCRIPT, KILL_AT=step) as victim:
            answer = None
            async with requests_to(service, account_id) as http:
                await ready(service, http)
                with suppress(httpx.TransportError):
                    answer = await http.post("/v1/images/generate", json=GENERATE)
            # Some steps come after the answer, and which confirmations share a transaction is chance.
            await ended(victim, step)
        wanted = possible_ends(service.steps(), step, WRITES)
        ends[step] = await after_restart(service, ledger, database, account_id, wanted, answer)
    for step, end in ends.items():
        print(f"{step:<34} {end}")


async def after_restart(
    service: Service,
    ledger: Ledger,
    database: "asyncpg.Connection[asyncpg.Record]",
    account_id: str,
    wanted: list[Rows],
    answer: httpx.Response | None,
) -> object:
    """What it came to; asserts that nothing is forgotten, done twice or left open."""
    with service.running("-m", "image_service"):
        async with requests_to(service, account_id) as http:
            await ready(service, http)
            await eventually(lambda: service.left() == (0, 0), f"{account_id}: nothing is left", within_seconds=40)
            assert (await http.get("/v1/in-doubt")).json()["operations"] == []
            rows = await usage(database, account_id)
            assert rows in wanted, service.steps()
            if answer is not None:
                assert (answer.status_code, rows) == (200, COMPLETED), "the caller was told otherwise"

            # Its key stands for that outcome, or for nothing yet; then it is done now, once.
            again = await http.post("/v1/images/generate", json=GENERATE)
            assert again.status_code == (502 if rows == INTERRUPTED else 200), again.text
            await eventually(lambda: service.left() == (0, 0), "the repeat is confirmed")
    after = await usage(database, account_id)
    assert after == (rows or COMPLETED)
    state = (await ledger.usage(account_id))["limits"][0]
    assert (state["settled"], state["held"]) == (int(after == COMPLETED), 0)
    return rows or "nothing begun"
