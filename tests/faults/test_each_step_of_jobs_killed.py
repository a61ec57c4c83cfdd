"""Two jobs ordered at a provider under one operation, killed at each step in turn: after a restart they are found again
and paid as the provider billed them, or are in doubt at no less than that, or were never ordered; and never twice."""

from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import asyncpg
import httpx
import pytest

from ledger_service.price_loading import follow_shipped
from tests.builders import limit
from tests.emulators import Emulators, running_emulators
from tests.faults.killed_steps import Rows, Service, Write, ended, hooked, possible_ends, ready, requests_to, usage
from tests.servers import Ledger, eventually

pytestmark = pytest.mark.faults

GENERATE = {"prompt": "a lighthouse at dusk", "width": 512, "height": 512, "provider": "wavespeed", "variations": 2}
#: What must be among the steps, or the hooks do not hook: the last number of each that is certain to come.
CERTAIN = {
    "Journal.claim in transaction": 1, "Journal.claim on disk": 1,
    "Journal.begin in transaction": 1, "Journal.begin on disk": 1,
    "Journal.note in transaction": 2, "Journal.note on disk": 2,
    "order before": 2, "order after": 2,
    "look before": 1, "look after": 1,
    "download before": 2, "download after": 2,
    "outcome file before": 1, "outcome file after": 1,
    "Journal.finish in transaction": 1, "Journal.finish on disk": 1,
    "publish before": 2, "publish after": 2,
    "confirmation before": 1, "_confirm_some in transaction": 1, "_confirm_some on disk": 1, "confirmation after": 1,
}  # fmt: skip

SCRIPT = hooked(
    """
from image_service.providers.downloads import Downloads
from image_service.providers.http import Channel
around(Channel, "order", "order")
around(Channel, "look", "look")
around(Downloads, "fetch", "download")
""",
    ("claim", "begin", "note", "finish"),
)


def environment(emulators: Emulators) -> dict[str, str]:
    told = emulators.http.get(f"{emulators.server.control_url}/").json()["providers"]["wavespeed"]
    return {
        "IMAGE_WAVESPEED_URL": told["url"],
        "IMAGE_WAVESPEED_KEY": told["keys"][0],
        "IMAGE_RESULT_INSECURE_HOSTS": f"127.0.0.1:{emulators.server.cdn_port}",
    }


def billed_nanos(emulators: Emulators) -> list[int]:
    """Of each job that the provider took."""
    return [int(Decimal(amount) * 10**9) for amount in emulators.amounts()]


async def test_killed_at_each_step_jobs_are_paid_as_billed_or_in_doubt_at_no_less(
    ledger: Ledger, nats_url: str, database: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await follow_shipped(database)
    await ledger.put_plan(limit(window="lifetime", maximum=10))
    with running_emulators() as emulators:
        emulators.pace(queue=0.01, run=0.05)
        more = environment(emulators)

        first = Service(tmp_path / "unharmed", ledger.url, nats_url, more)
        await ledger.put_account("unharmed")
        with first.running("-c", SCRIPT):
            async with requests_to(first, "unharmed") as http:
                await ready(first, http)
                answer = await http.post("/v1/images/generate", json=GENERATE)
                assert answer.status_code == 200, answer.text
            await eventually(lambda: first.left() == (0, 0), "everything is confirmed")
        # How often it looks and the ledger confirms is chance.
        steps = [step for step in first.steps() if int(step.split()[-1]) <= CERTAIN[step.rpartition(" ")[0]]]
        assert sorted(steps) == sorted(f"{name} {n + 1}" for name, last in CERTAIN.items() for n in range(last))
        prices = billed_nanos(emulators)
        assert len(prices) == 2
        completed = [("completed", None, sum(prices))]
        assert await usage(database, "unharmed") == completed
        print(f"{len(steps)} steps")

        ends = dict[str, object]()
        for number, step in enumerate(steps):
            emulators.http.post(f"{emulators.server.control_url}/reset")
            emulators.pace(queue=0.01, run=0.05)
            account_id = f"killed-{number}"
            await ledger.put_account(account_id)
            service = Service(tmp_path / account_id, ledger.url, nats_url, more)
            with service.running("-c", SCRIPT, KILL_AT=step) as victim:
                told = None
                async with requests_to(service, account_id) as http:
                    await ready(service, http)
                    with suppress(httpx.TransportError):
                        told = await http.post("/v1/images/generate", json=GENERATE)
                await ended(victim, step)
            ends[step] = await after_restart(service, ledger, database, emulators, step, completed, told)
    for step, end in ends.items():
        print(f"{step:<34} {end}")


async def after_restart(
    service: Service,
    ledger: Ledger,
    database: "asyncpg.Connection[asyncpg.Record]",
    emulators: Emulators,
    step: str,
    completed: Rows,
    told: httpx.Response | None,
) -> object:
    """What it came to; asserts that nothing is forgotten, ordered or recorded twice, or left open."""
    account_id = service.folder.name
    doubtful = [("failed", "outcome_unknown", completed[0][2])]
    writes = (
        Write("Journal.begin", 1, doubtful),
        # The ids of both jobs: from here on what became of them can be asked for.
        Write("Journal.note", CERTAIN["Journal.note on disk"], completed),
        Write("Journal.finish", 1, completed),
    )
    wanted = possible_ends(service.steps(), step, writes)
    with service.running("-m", "image_service"):
        async with requests_to(service, account_id) as http:
            await ready(service, http)
            await eventually(lambda: service.left() == (0, 0), f"{account_id}: nothing is left", within_seconds=40)
            assert (await http.get("/v1/in-doubt")).json()["operations"] == []
            rows = await usage(database, account_id)
            assert rows in wanted, service.steps()
            billed = billed_nanos(emulators)
            assert sum(billed) <= sum(row[2] for row in rows), "the provider billed what nobody recorded"
            if told is not None:
                assert (told.status_code, rows) == (200, completed), "the caller was told otherwise"

            # Its key stands for that outcome, or for nothing yet; then it is done now, once.
            again = await http.post("/v1/images/generate", json=GENERATE)
            assert again.status_code == (502 if rows == doubtful else 200), again.text
            await eventually(lambda: service.left() == (0, 0), "the repeat is confirmed")
    assert len(billed_nanos(emulators)) == (len(billed) if rows else 2), "ordered again"
    after = await usage(database, account_id)
    assert after == (rows or completed)
    state = (await ledger.usage(account_id))["limits"][0]
    assert (state["settled"], state["held"]) == (int(after == completed), 0)
    return rows or "nothing begun"
