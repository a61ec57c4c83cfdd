"""The image service in a process of its own that is killed at a step of an operation, and what it must have left."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx

from deploy.local.ports import free_port
from tests.servers import eventually
from tests.tokens import AUTHORIZED, TOKEN

ROOT = Path(__file__).parents[2]
#: Rows of the usage log: outcome, error's code, cost.
Rows = list[tuple[Any, ...]]
NOTHING: Rows = []

_SCRIPT = """
import os, signal, sys
from collections import Counter
from contracts.client import group_commit, jetstream, relay
from contracts.client.journal import Journal
from image_service import main
from image_service.outcomes import OutcomeStore

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

# HOOKS
around(jetstream, "publish", "publish")
around(relay.Relay, "_confirm", "confirmation")

real_save = OutcomeStore.save
def save(self, outcome):
    step("outcome file before")
    saved = real_save(self, outcome)
    step("outcome file after")
    return saved
OutcomeStore.save = save

uncommitted = []
real_write, real_settle = group_commit.GroupCommit.write, group_commit._settle
async def write(self, work):
    name = getattr(work, "func", work).__qualname__.partition(".<locals>")[0]
    if name.startswith("Journal.") and name.split(".")[1] not in WRITES:
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


def hooked(hooks: str, writes: Sequence[str]) -> str:
    """A start script of the service that kills it at the step KILL_AT ("publish before 2": the second time); the file
    STEPS has all it took. ``hooks``: calls of ``around(owner, method, label)``; ``writes``: methods of Journal that
    are steps."""
    return _SCRIPT.replace("# HOOKS", hooks).replace("WRITES", repr(tuple(writes)))


class Service:
    """The image service on one data folder, started again and again."""

    def __init__(self, folder: Path, ledger_url: str, nats_url: str, more: Mapping[str, str] | None = None) -> None:
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
            **(more or {}),
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


async def ended(victim: "subprocess.Popen[bytes]", step: str) -> None:
    """Some steps come after the answer."""
    await eventually(lambda: victim.poll() is not None, f"it is killed at {step}")
    assert victim.returncode == -signal.SIGKILL


class Write(NamedTuple):
    """A write to the journal, which one of its kind, and what the usage log must have once it is on disk."""

    step: str
    number: int
    end: Rows


def possible_ends(taken: Sequence[str], killed_at: str, writes: Sequence[Write]) -> list[Rows]:
    """What the usage log must have, from how far it came: one of these, mostly just one. ``writes``: in their order.

    Publishing goes on beside the operation; where that was killed, a transaction may have been ending just then.
    """
    ends = [NOTHING]
    for step, number, end in writes:
        in_transaction, on_disk = f"{step} in transaction {number}", f"{step} on disk {number}"
        if on_disk in taken:
            ends = [end]
        elif in_transaction in taken and killed_at != in_transaction:
            ends = [*ends, end]
    return ends


async def usage(database: "asyncpg.Connection[asyncpg.Record]", account_id: str) -> Rows:
    query = "select outcome, error_code, cost_nanos from usage_log where account_id = $1"
    return [tuple(row) for row in await database.fetch(query, account_id)]
