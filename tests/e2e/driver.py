"""What the end-to-end tests drive: the whole stack in a process of its own, its clients, a seeded random workload."""

import asyncio
import hashlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import asyncpg
import httpx
import nats
from nats.aio.client import Client
from nats.js.api import ConsumerInfo
from PIL import Image

from contracts.identifiers import uuid7
from contracts.subjects import INGEST_CONSUMER, STREAM
from deploy.local.folder import StackState, read_state
from deploy.local.tokens import DEV_TOKEN_FILE
from tests.builders import Body, account, limit, plan

REPOSITORY: Final = Path(__file__).parents[2]
WAIT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05
#: Longer than the ingest consumer's ack wait: what a killed ledger had taken is delivered again only after that.
QUIET_SECONDS: Final = 60.0
STOP_SECONDS: Final = 45.0
REQUEST_SECONDS: Final = 45.0
SERVERS: Final = ("image", "ledger", "nats", "postgres")
#: Quick where production is patient, so that tests need not wait.
QUICK: Final[Mapping[str, str]] = {
    "IMAGE_CONFIRM_AFTER_SECONDS": "2",
    "IMAGE_PROVIDER_TIMEOUT_SECONDS": "5",
    "LEDGER_CONFIRM_INTERVAL_SECONDS": "0.5",
}
#: No restart counts as one too many: tests kill what has just come up, again and again.
RAPID_FAILURES_MAX: Final = 10_000

# usage-stack, except for the patience with processes that die; ended with the test process, however that ends.
_SUPERVISOR: Final = """
import asyncio, ctypes, signal, sys
from pathlib import Path
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
from deploy.local.cli import run_until_stopped
from deploy.local.stack import StackOptions, external_servers
options = StackOptions(Path(sys.argv[1]), rapid_failures_max=int(sys.argv[2]), external=external_servers())
sys.exit(asyncio.run(run_until_stopped(options)))
"""
Value = TypeVar("Value")


async def eventually(
    ask: Callable[[], Awaitable[Value]], good: Callable[[Value], object], seconds: float = WAIT_SECONDS
) -> Value:
    """The first answer that is good; an answer that raises is asked for again. AssertionError with the last one."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            answer = await ask()
            if good(answer):
                return answer
            last = answer
        except (httpx.HTTPError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, nats.errors.Error) as error:
            last = error
        assert time.monotonic() < deadline, f"not within {seconds} s; last: {last!r}"
        await asyncio.sleep(POLL_SECONDS)


# --- the stack ---


class StackProcess:
    """A stack on a data folder. Start it on the main thread; `stop` leaves no process."""

    def __init__(self, data: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        self._environment = {**_plain_environment(), **QUICK, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._terminated = False
        self._image_url = ""

    def start(self, argv: tuple[str, ...] | None = None) -> None:
        """Returns when it has said that it is ready."""
        argv = argv or (sys.executable, "-c", _SUPERVISOR, str(self.data), str(RAPID_FAILURES_MAX))
        errors = self.data.with_name(f"{self.data.name}.stderr")
        with errors.open("a") as stderr:
            self._process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=REPOSITORY, env=self._environment
            )
        self._terminated = False
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # bounded by the stack itself, which gives up on what is not ready
        assert line == "ready\n", f"{line!r}, and on standard error:\n{errors.read_text()}"
        self._image_url = self.state.image_url

    @property
    def state(self) -> StackState:
        state = read_state(self.data)
        assert state is not None, "the stack does not run"
        return state

    @property
    def supervisor_pid(self) -> int | None:
        """Of the process that keeps the others up, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def headers(self) -> dict[str, str]:
        """Of whoever may do everything; they go along with requests to either service."""
        token = (self.data / DEV_TOKEN_FILE).read_text().partition("\n")[0]
        return {"Authorization": f"Bearer {token}"}

    @property
    def image_url(self) -> str:
        """Where it is, or was: customers go on while the stack stops."""
        state = read_state(self.data)
        if state is not None:
            self._image_url = state.image_url
        return self._image_url

    def signal(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send one of SERVERS a signal; the number of the process that got it."""
        pid = getattr(self.state.pids, name)
        with suppress(ProcessLookupError):  # dead already, and not started again yet
            os.kill(pid, number)
        return int(pid)

    async def kill(self, name: str) -> None:
        """kill -9, and wait until its successor is launched."""
        pid = self.signal(name)
        await eventually(self._pids, lambda pids: getattr(pids, name) != pid)

    async def _pids(self) -> object:
        return self.state.pids

    async def kill_and_wait(self, name: str) -> None:
        """kill -9, and wait until everything is ready again."""
        await self.kill(name)
        await self.ready()

    async def ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            for url in (self.state.ledger_url, self.state.image_url):
                await eventually(lambda url=url: http.get(f"{url}/readyz"), lambda answer: answer.status_code == 200)  # type: ignore[misc]

    def terminate(self) -> None:
        """SIGTERM, once: a second one could meet it when it has stopped everything and is about to exit. See `stop`."""
        assert self._process is not None
        if not self._terminated:
            self._process.send_signal(signal.SIGTERM)
        self._terminated = True

    def stop(self) -> int:
        """Stop it cleanly, and wait; its exit code. Idempotent."""
        if self._process is None:
            return 0
        self.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        finally:
            self.kill_all()
        return self._process.returncode

    def kill_all(self) -> None:
        """kill -9 of the supervisor, which takes all with it, and wait until they are gone. Idempotent."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        deadline = time.monotonic() + WAIT_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(POLL_SECONDS)

    def processes(self) -> list[int]:
        """What runs on the data folder, by arguments and environment; a zombie has neither."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if os.fsencode(self.data) in words:
                        found.append(int(entry.name))
        return found

    def operation_lines(self, account_id: str) -> list[Body]:
        """The structured log lines of the image service about an account's operations."""
        lines = (self.data / "logs" / "image.log").read_text().splitlines()
        found = [json.loads(line) for line in lines if '"event":"operation"' in line]
        return [line for line in found if line["account_id"] == account_id]

    def journal(self, query: str) -> Any:
        """One value out of the image service's journal."""
        with closing(sqlite3.connect(f"file:{self.data}/image/journal.db?mode=ro", uri=True, timeout=10)) as journal:
            return journal.execute(query).fetchone()[0]

    async def fetch(self, query: str, *values: object) -> "list[asyncpg.Record]":
        """Rows out of the ledger's database."""
        connection = await asyncpg.connect(self.state.database_url, timeout=20)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    async def consumer(self) -> ConsumerInfo:
        """The state of the consumer from which the ledger ingests."""
        async with self.broker() as client:
            found: ConsumerInfo = await client.jetstream().consumer_info(STREAM, INGEST_CONSUMER)
            return found

    async def stream_messages(self) -> int:
        """How many events the broker ever took."""
        async with self.broker() as client:
            return int((await client.jetstream().stream_info(STREAM)).state.last_seq)

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[Client]:
        client = await nats.connect(self.state.nats_url.split(","), allow_reconnect=False, connect_timeout=20)
        try:
            yield client
        finally:
            await client.close()

    async def holds(self) -> int:
        return len(await self.fetch("select 1 from decisions where state = 'held'"))

    async def running(self) -> int:
        """Operations that were started and have no outcome yet."""
        return int(self.journal("select count(*) from operations where state = 'intent'"))

    async def quiet(self) -> None:
        """Wait until every operation has its outcome, and the ledger has all events; an ended hold is ended."""

        async def unrest() -> list[str]:
            consumer = await self.consumer()
            overdue = "select 1 from decisions where state = 'held' and expires_at < clock_timestamp()"
            found = {
                "operations without outcome": await self.running(),
                "unconfirmed events": self.journal("select count(*) from outbox"),
                "undelivered messages": consumer.num_pending,
                "unacknowledged messages": consumer.num_ack_pending,
                "holds past their time": len(await self.fetch(overdue)),
            }
            return [f"{count} {what}" for what, count in found.items() if count]

        await eventually(unrest, lambda found: not found, QUIET_SECONDS)


def _plain_environment() -> dict[str, str]:
    """Ours, without what would point the stack at other servers or change its settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "IMAGE_"))}


def stack_in(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[StackProcess]:
    """For fixtures: a ready stack on a new folder, stopped at the end whatever happens."""
    stack = StackProcess(folder / "data", environment)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


# --- a client ---


def png(width: int = 16, height: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


class AccountClient:
    """A customer: sends operations for its account, and reads what the ledger says of it."""

    def __init__(self, stack: StackProcess, http: httpx.AsyncClient, account_id: str) -> None:
        self.id = account_id
        self.limits: list[Body] = []
        self._stack = stack
        self._http = http

    async def put_on_plan(self, *limits: Body) -> None:
        self.limits = list(limits)
        ledger = self._stack.state.ledger_url
        for path, body in ((f"plans/{self.id}", plan(*limits)), (f"accounts/{self.id}", account(self.id))):
            (await self._http.put(f"{ledger}/v1/{path}", json=body)).raise_for_status()

    async def generate(self, *, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"prompt": "a lighthouse at dusk", "width": 16, "height": 16, **fields}
        return await self._post("generate", headers, json=body)

    async def edit(self, image: bytes, *, headers: Mapping[str, str] | None = None, **fields: str) -> httpx.Response:
        return await self._post("edit", headers, files={"image": ("image.png", image)}, data=fields)

    async def upscale(self, image: bytes, *, headers: Mapping[str, str] | None = None, **fields: str) -> httpx.Response:
        return await self._post("upscale", headers, files={"image": ("image.png", image)}, data=fields)

    async def _post(self, operation: str, headers: Mapping[str, str] | None, **body: Any) -> httpx.Response:
        caller = {"X-Account-Id": self.id, "X-User-Id": "ada", **(headers or {})}
        return await self._http.post(f"{self._stack.image_url}/v1/images/{operation}", headers=caller, **body)

    async def usage(self, period: str | None = None) -> Body:
        return await self._get(f"accounts/{self.id}/usage", {"period": period} if period else {})

    async def used(self, limit_id: str) -> tuple[int | str, int | str, int | str]:
        """Settled, held and available of a limit."""
        found = {one["limit_id"]: one for one in (await self.usage())["limits"]}[limit_id]
        return found["settled"], found["held"], found["available"]

    async def usage_log(self) -> list[Body]:
        """All of it, newest first."""
        items: list[Body] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self._get(f"accounts/{self.id}/usage-log", {"limit": "200", **cursor})
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    async def recorded(self, rows: int) -> list[Body]:
        """The usage log once it has so many rows; more would be wrong."""
        found = await eventually(self.usage_log, lambda items: len(items) >= rows)
        assert len(found) == rows
        return found

    async def decision(self, operation_id: str) -> Body:
        return await self._get(f"decisions/{operation_id}", {})

    async def _get(self, path: str, query: Mapping[str, str]) -> Body:
        answer = await self._http.get(f"{self._stack.state.ledger_url}/v1/{path}", params=query)
        answer.raise_for_status()
        found: Body = answer.json()
        return found


@asynccontextmanager
async def customer(stack: StackProcess, *limits: Body) -> AsyncIterator[AccountClient]:
    """A new account on a plan of its own with these limits."""
    connections = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(
        trust_env=False, headers=stack.headers, timeout=REQUEST_SECONDS, limits=connections
    ) as http:
        client = AccountClient(stack, http, f"account-{uuid7()}")
        await client.put_on_plan(*limits)
        yield client


# --- the workload ---


@dataclass(frozen=True)
class Told:
    """What a client heard of one request. ``status`` None: nothing, the connection broke or it waited too long."""

    index: int
    keyed: bool
    status: int | None
    code: str | None = None
    operation_id: str | None = None
    cost: str | None = None
    error_code: str | None = None
    images: str | None = None
    retry_after: str | None = None


@dataclass
class Workload:
    """Random operations, each a function of seed and index alone, sent by clients that never wait for one another.

    Request number i acts as the user ``r<i>``, so that everything the ledger has leads back to it.
    """

    seed: int
    accounts: list[AccountClient]
    told: list[Told] = field(default_factory=list)
    #: How long each request took that was answered with success.
    seconds: list[float] = field(default_factory=list)
    pause_seconds: float = 0.0
    _next: int = 0

    async def run(self, clients: int, until: asyncio.Event) -> None:
        """Send requests until the event is set and those under way have ended."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(until))

    def account_of(self, index: int) -> AccountClient:
        return self._random(index).choice(self.accounts)

    def _random(self, index: int) -> Random:
        return Random(f"{self.seed}/{index}")

    async def _client(self, until: asyncio.Event) -> None:
        while not until.is_set():
            index, self._next = self._next, self._next + 1
            await self._request(index)
            await asyncio.sleep(self.pause_seconds)

    async def _request(self, index: int) -> None:
        chance = self._random(index)
        target = chance.choice(self.accounts)
        kind = chance.choices(("generate", "upscale", "unreliable"), (6, 2, 2))[0]
        edge, variations = chance.randrange(16, 40), chance.choice((1, 1, 1, 2))
        keyed = chance.random() < 0.4
        repeats = chance.randrange(1, 4) if keyed else 0
        at_once = chance.random() < 0.5
        headers = {"X-User-Id": f"r{index}", **({"Idempotency-Key": f"key-{index}"} if keyed else {})}

        async def send() -> None:
            if kind == "upscale":
                await self._hear(index, keyed, target.upscale(png(edge, edge), headers=headers))
            else:
                model = {"model": "local-unreliable-1"} if kind == "unreliable" else {}
                body = {"width": edge, "height": edge, "variations": variations, **model}
                await self._hear(index, keyed, target.generate(headers=headers, **body))

        if at_once:
            await asyncio.gather(send(), *(send() for _ in range(repeats)))
            return
        for _ in range(1 + repeats):
            await send()
            await asyncio.sleep(chance.random() * 0.3 if keyed else 0)

    async def _hear(self, index: int, keyed: bool, answer: Awaitable[httpx.Response]) -> None:
        began = time.monotonic()
        try:
            response = await answer
        except httpx.TransportError:
            self.told.append(Told(index, keyed, None))
            await asyncio.sleep(0.2)  # a service that is away answers quickly
            return
        if response.status_code >= 429:
            await asyncio.sleep(0.1)
        if response.status_code == 200:
            self.seconds.append(time.monotonic() - began)
        body = response.json()
        images = hashlib.sha256(json.dumps(body["images"]).encode()).hexdigest() if "images" in body else None
        self.told.append(
            Told(
                index,
                keyed,
                response.status_code,
                body.get("code"),
                body.get("operation_id"),
                body.get("cost"),
                body.get("error", {}).get("code"),
                images,
                response.headers.get("retry-after"),
            )
        )


def workload_limits(chance: Random, *, roomier: bool = False) -> list[Body]:
    """Limits that a few seconds of work reach, some of them. For ever: a month could end under a test."""
    calls, units, spend = (
        ((50, 200, 5000), (100, 2000), ("2.5", "11.405", "500"))
        if roomier
        else ((12, 25, 400), (15, 500), ("0.20", "0.405", "50"))
    )
    selector = {"operation": ["generate"]}
    return [
        limit("operations", window="lifetime", maximum=chance.choice(calls)),
        limit("units", meter="units", window="lifetime", maximum=chance.choice(units), selector=selector),
        limit("spend", meter="cost", window="lifetime", maximum=chance.choice(spend)),
    ]
