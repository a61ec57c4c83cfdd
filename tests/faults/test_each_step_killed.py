"""An operation killed at each of its steps in turn: after a restart it is completed, resumed or was never begun.

The steps are not listed here: a first run writes down all that there are. The service that is killed is the real one in
a process of its own, with hooks that its start script puts in; the one that is started afterwards has none.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from deploy.local.ports import free_port
from tests.builders import limit
from tests.servers import Ledger, eventually
from tests.tokens import AUTHORIZED, TOKEN

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
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
NOTHING: list[tuple[Any, ...]] = []
INTERRUPTED: list[tuple[Any, ...]] = [("failed", "interrupted", 0)]
COMPLETED: list[tuple[Any, ...]] = [("completed", None, 10_000_000)]

#: Starts the service and kills it at the step KILL_AT ("publish before 2": the second time); STEPS has all it took.
HOOKED = """
import os, signal, sys
from collections import Counter
from contracts.client import group_commit, jetstream, relay
from contracts.client.journal import Journal
from image_service import main
from image_service.outcomes import OutcomeStore
from image_service.providers.local import LocalProvider

wanted, taken, armed = os.environ.get("KILL_AT"), Counter(), False
steps = os.open(os.environ["STEPS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def step(name):
    if not armed:
        return
    taken[name] += 1
    numbered = f"{name} {taken[name]}"
    os.write(steps, (numbered + "\\n").encode())
    if numbered == wanted:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name, label):
    real = getattr(owner, name)
    async def hooked(*args, **kwargs):
        step(f"{label} before")
        result = await real(*args, **kwargs)
        step(f"{label} after")
        return result
    setattr(owner, name, hooked)

around(LocalProvider, "generate", "provider")
around(jetstream, "publish", "publish")
around(relay.Relay, "_confirm", "confirmation")

real_save = OutcomeStore.save
def save(self, outcome):
    step("outcome file before")
    real_save(self, outcome)
    step("outcome file after")
OutcomeStore.save = save

uncommitted = []
real_write, real_settle = group_commit.GroupCommit.write, group_commit._settle
async def write(self, work):
    name = getattr(work, "func", work).__qualname__.partition(".<locals>")[0]
    if name.startswith("Journal.") and name.split(".")[1] not in ("claim", "begin", "finish"):
        return await real_write(self, work)
    def hooked(connection):
        result = work(connection)
        uncommitted.append(name)
        step(f"{name} in transaction")
        return result
    return await real_write(self, hooked)
def settle(batch, failure):
    # On disk, and nobody was told.
    while uncommitted:
        step(f"{uncommitted.pop(0)} on disk")
    real_settle(batch, failure)
group_commit.GroupCommit.write, group_commit._settle = write, settle

real_claim = Journal.claim
async def claim(self, claimed):
    global armed
    armed = True
    return await real_claim(self, claimed)
Journal.claim = claim
sys.exit(main.run())
"""


class Service:
    """The image service on one data folder, started again and again."""

    def __init__(self, folder: Path, ledger_url: str, nats_url: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "IMAGE_PORT": str(self.port),
            "IMAGE_NATS_URL": nats_url,
            "IMAGE_LEDGER_URL": ledger_url,
            "IMAGE_LEDGER_TOKEN": TOKEN,
            "IMAGE_DATA_DIR": str(folder / "data"),
            "IMAGE_CONFIRM_AFTER_SECONDS": "1",
            "STEPS": str(folder / "steps"),
        }
        folder.mkdir()

    @contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
        with (self.folder / "service.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**self._environment, **environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def steps(self) -> list[str]:
        return (self.folder / "steps").read_text().splitlines()

    def left(self) -> tuple[int, int]:
        """Operations without an outcome, and events that are not confirmed."""
        with closing(sqlite3.connect(f"file:{self.folder}/data/journal.db?mode=ro", uri=True, timeout=5)) as journal:
            found = journal.execute(
                "select (select count(*) from operations where state = 'intent'), (select count(*) from outbox)"
            ).fetchone()
        return found[0], found[1]


async def ready(service: Service, http: httpx.AsyncClient) -> None:
    async def answers() -> bool:
        try:
            return (await http.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(answers, "the image service is ready", within_seconds=60)


def requests_to(service: Service, account_id: str) -> httpx.AsyncClient:
    headers = {**AUTHORIZED, "X-Account-Id": account_id, "X-User-Id": "ann", "Idempotency-Key": "the-one"}
    url = f"http://127.0.0.1:{service.port}"
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False)


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
    with first.running("-c", HOOKED):
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
        with service.running("-c", HOOKED, KILL_AT=step) as victim:
            answer = None
            async with requests_to(service, account_id) as http:
                await ready(service, http)
                with suppress(httpx.TransportError):
                    answer = await http.post("/v1/images/generate", json=GENERATE)
            # Some steps come after the answer, and which confirmations share a transaction is chance.
            await ended(victim, step)
        wanted = possible_ends(service.steps(), step)
        ends[step] = await after_restart(service, ledger, database, account_id, wanted, answer)
    for step, end in ends.items():
        print(f"{step:<34} {end}")


async def ended(victim: "subprocess.Popen[bytes]", step: str) -> None:
    """Some steps come after the answer."""
    await eventually(lambda: victim.poll() is not None, f"it is killed at {step}")
    assert victim.returncode == -signal.SIGKILL


def possible_ends(taken: list[str], killed_at: str) -> list[list[tuple[Any, ...]]]:
    """What the usage log must have, from how far it came: one of these, mostly just one.

    Publishing goes on beside the operation; where that was killed, a transaction may have been ending just then.
    """
    ends = [NOTHING]
    for write, end in (("Journal.begin", INTERRUPTED), ("Journal.finish", COMPLETED)):
        in_transaction, on_disk = f"{write} in transaction 1", f"{write} on disk 1"
        if on_disk in taken:
            ends = [end]
        elif in_transaction in taken and killed_at != in_transaction:
            ends = [*ends, end]
    return ends


async def after_restart(
    service: Service,
    ledger: Ledger,
    database: "asyncpg.Connection[asyncpg.Record]",
    account_id: str,
    wanted: list[list[tuple[Any, ...]]],
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


async def usage(database: "asyncpg.Connection[asyncpg.Record]", account_id: str) -> list[tuple[Any, ...]]:
    query = "select outcome, error_code, cost_nanos from usage_log where account_id = $1"
    return [tuple(row) for row in await database.fetch(query, account_id)]
