"""Real servers for the tests: PostgreSQL and NATS, and the ledger on them, in this process or in one of its own.

``TEST_SERVERS`` says whose PostgreSQL and NATS: ``urls``, ``containers`` or ``wheels``. Without it: URLs where the
environment has them (``TEST_DATABASE_URL`` and ``TEST_NATS_URL``, else ``LEDGER_DATABASE_URL`` and
``LEDGER_NATS_URL``), else containers where a Docker engine answers, else the wheels. The user of the database URL must
be allowed to create databases.
"""

import asyncio
import fcntl
import inspect
import json
import os
import secrets
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx
import nats
import uvicorn
from nats.aio.client import Client as NatsClient
from nats.js.errors import NotFoundError

from contracts.events import BATCH_CONTENT_TYPE, CONTENT_TYPE
from contracts.explained_answers import ExplainedDecision
from contracts.subjects import INGEST_CONSUMER, NOTIFICATIONS_STREAM, SEALS_STREAM, STREAM
from deploy.local.postgres import NOT_DURABLE, TEXT_OPTIONS
from deploy.local.servers import NatsServer, PostgresServer
from deploy.local.services import ServiceProcess
from deploy.postgres.roles import AUDITOR, FINANCE, OWNER, ROLES, SERVICE, make_roles
from ledger_service.config import Settings
from ledger_service.store.migrations import migrate
from ledger_service.store.privileges import let_read, let_serve
from ledger_service.stream import create_stream
from tests.builders import Body, account, moved_to, plan, usual
from tests.memory import folder_in_memory, is_memory_to_spare
from tests.quick_clients import Spread
from tests.tokens import AUTHORIZED, make_token_known

POSTGRES_IMAGE: Final = "postgres:18"
#: The image's volume, under which it has a folder for each major version.
POSTGRES_IMAGE_DATA: Final = "/var/lib/postgresql"
NATS_IMAGE: Final = "nats:2.15"
DOCKER_ANSWER_SECONDS: Final = 2
STATEMENT_SECONDS: Final = 30
#: Commit times let tests.soak.verifier put the log in the order of its commits.
POSTGRES_SETTINGS: Final[Mapping[str, str]] = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "autovacuum": "off",
    "track_commit_timestamp": "on",
    # Of passwords that are no secrets: at the default, half of what a connection costs, and a ledger opens nine.
    "scram_iterations": "1",
}
#: One for all of a server's databases.
SERVICE_ROLE: Final = SERVICE
PASSWORDS: Final = {role: f"the-{role}-of-tests" for role in ROLES}
#: Long, for it costs nothing where all is well, and a busy machine is no bug.
WAIT_SECONDS: Final = 60.0
#: Of clients that only speak plain HTTP: to read the authorities of the world for each takes longer than most tests.
TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
POLL_SECONDS: Final = 0.01
#: Quick where production is patient, so that tests need not wait. Webhooks are so in their own tests alone, see
#: tests.receivers: hundreds of other ledgers would be busy looking for something to tell.
QUICK: Final[Mapping[str, object]] = {
    "expiry_interval_seconds": 0.1,
    "confirm_interval_seconds": 0.2,
}

Result = TypeVar("Result")


class Source(StrEnum):
    """Where the servers come from."""

    URLS = "urls"
    CONTAINERS = "containers"
    WHEELS = "wheels"


def choose_source(environment: Mapping[str, str] = os.environ) -> Source:
    """What TEST_SERVERS says, else the first that is there."""
    wanted = environment.get("TEST_SERVERS", "automatic")
    if wanted != "automatic":
        return Source(wanted)
    if given_url("DATABASE", environment) and given_url("NATS", environment):
        return Source.URLS
    return Source.CONTAINERS if _docker_answers() else Source.WHEELS


def given_url(server: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL of ``DATABASE`` or ``NATS`` in the environment."""
    return environment.get(f"TEST_{server}_URL") or environment.get(f"LEDGER_{server}_URL")


def _docker_answers() -> bool:
    try:
        import docker  # type: ignore[import-untyped]  # comes with testcontainers, without types
        import docker.errors  # type: ignore[import-untyped]  # as above
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=DOCKER_ANSWER_SECONDS)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (docker.errors.DockerException, OSError):
        return False


@contextmanager
def postgres_server(source: Source, folder: Path) -> Iterator[str]:
    """A running PostgreSQL; yields the URL of its database ``postgres``, as a user who may create databases."""
    match source:
        case Source.URLS:
            yield _given("DATABASE")
        case Source.CONTAINERS:
            from testcontainers.community.postgres import PostgresContainer

            container = PostgresContainer(POSTGRES_IMAGE, username="postgres", dbname="postgres", driver=None)
            container.with_env("POSTGRES_INITDB_ARGS", " ".join(TEXT_OPTIONS))
            settings = {**NOT_DURABLE, "jit": "off", **POSTGRES_SETTINGS}
            container.with_command(["postgres", *(f"-c{key}={value}" for key, value in settings.items())])
            if is_memory_to_spare():  # as the wheels' does: see folder_in_memory()
                container.with_tmpfs_mount(POSTGRES_IMAGE_DATA)
            with container:
                yield container.get_connection_url()
        case Source.WHEELS:
            with folder_in_memory(folder) as place:
                server = PostgresServer(place / "postgres", durable=False, settings=POSTGRES_SETTINGS)
                try:
                    server.start()
                    yield server.url_of("postgres")
                finally:
                    server.stop()


@contextmanager
def nats_server(source: Source, folder: Path) -> Iterator[str]:
    """A running NATS with JetStream; yields its URL. Where it is shared with other processes, one has it at a time."""
    match source:
        case Source.URLS:
            url = _given("NATS")
            # The stream's name is fixed, so two pytest workers on one server would delete each other's.
            place = Path(tempfile.gettempdir(), f"ledger-tests-{sha256(url.encode()).hexdigest()[:16]}.lock")
            with place.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield url
        case Source.CONTAINERS:
            from testcontainers.community.nats import NatsContainer

            with NatsContainer(NATS_IMAGE, jetstream=True) as container:
                yield container.nats_uri()
        case Source.WHEELS:
            with folder_in_memory(folder) as place:
                server = NatsServer(place / "nats")
                try:
                    server.start()
                    yield server.url
                finally:
                    server.stop()


def _given(server: str) -> str:
    url = given_url(server)
    if url is None:
        raise LookupError(f"TEST_SERVERS=urls needs TEST_{server}_URL")
    return url


class Databases:
    """Makes databases on one server, by cloning a migrated template, which takes some 20 ms."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._template = f"ledger_template_{secrets.token_hex(6)}"
        self._migrated = False

    def clone(self) -> str:
        """The URL of a new migrated database."""
        return self._run(self._clone())

    @contextmanager
    def cloned(self) -> Iterator[str]:
        """The same, gone afterwards."""
        url = self.clone()
        try:
            yield url
        finally:
            self.drop(url)

    def empty(self) -> str:
        """The URL of a new database with nothing in it."""
        return self._run(self._create("template1"))

    def drop(self, url: str) -> None:
        self._run(self._drop(_database_of(url)))

    def close(self) -> None:
        self._run(self._close())
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """On a loop of its own, as a test's may be running; always the same one, for the sake of its connection."""
        return self._thread.submit(self._runner.run, work).result()

    async def _close(self) -> None:
        if self._migrated:
            await self._drop(self._template)
        if self._connection is not None:
            await self._connection.close()

    async def _clone(self) -> str:
        if not self._migrated:
            await self._execute(f'create database "{self._template}"')
            template = _with_database(self._admin_url, self._template)
            await make_roles(template, PASSWORDS)
            await _let_in_quickly(template)
            owner = as_role(template, OWNER)
            await migrate(owner)
            await let_serve(owner, as_service(template))
            await let_read(owner)
            await make_token_known(template)
            self._migrated = True
        return await self._create(self._template)

    async def _create(self, template: str) -> str:
        name = f"ledger_test_{secrets.token_hex(6)}"
        owner = "" if template == "template1" else f"owner {OWNER}"
        await self._execute(f'create database "{name}" template "{template}" {owner} strategy file_copy')
        if owner:
            # A database's own rights are not copied with it.
            await self._execute(f'revoke all on database "{name}" from public')
            await self._execute(f'grant connect on database "{name}" to {SERVICE}, {FINANCE}, {AUDITOR}')
            await self._execute(f'grant temporary on database "{name}" to {SERVICE}')
        return _with_database(self._admin_url, name)

    async def _drop(self, name: str) -> None:
        await self._execute(f'drop database if exists "{name}" with (force)')

    async def _execute(self, statement: str) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._admin_url, timeout=STATEMENT_SECONDS)
        await self._connection.execute(statement, timeout=STATEMENT_SECONDS)


async def _let_in_quickly(admin_url: str) -> None:
    """Passwords that are checked in one round of hashing: 4096 of them take longer than all else of a connection."""
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute("set scram_iterations = 1")
        for role, password in PASSWORDS.items():
            await connection.execute(f"alter role {role} password '{password}'")
    finally:
        await connection.close()


def as_service(url: str) -> str:
    """The same database under the role that the ledger runs under, which owns nothing and only appends to the log."""
    return as_role(url, SERVICE)


def as_role(url: str, role: str) -> str:
    """The same database under one of the roles of deploy/postgres."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}:{PASSWORDS[role]}@{place}").geturl()


def _database_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def _with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def remove_stream(url: str) -> None:
    """Deletes whole streams with their consumers: an administrator may, whatever their messages are protected from."""
    async with _connected(url) as connection:
        await _remove_streams(connection)


async def renew_stream(url: str) -> None:
    """Leaves an empty stream, as `ledger migrate` makes it."""
    async with _connected(url) as connection:
        await _remove_streams(connection)
        await create_stream(connection, replicas=1)


async def has_acknowledged_all(client: NatsClient) -> bool:
    """Whether the ledgers have taken all that is in the stream. Not by what is pending: a consumer may hear of a
    message only after its publisher was answered."""
    jetstream = client.jetstream(timeout=5)
    stream, consumer = await jetstream.stream_info(STREAM), await jetstream.consumer_info(STREAM, INGEST_CONSUMER)
    assert consumer.ack_floor is not None
    return bool(consumer.ack_floor.stream_seq >= stream.state.last_seq)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[NatsClient]:
    connection = await nats.connect(url, connect_timeout=5)
    try:
        yield connection
    finally:
        await connection.close()


async def _remove_streams(connection: NatsClient) -> None:
    for name in (STREAM, SEALS_STREAM, NOTIFICATIONS_STREAM):
        with suppress(NotFoundError):
            await connection.jetstream().delete_stream(name)


def run_apart(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine on a loop of its own, from where a loop may or may not be running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


# --- the ledger ---


class Client:
    """HTTP to a ledger, with the calls that tests make most. ``http`` is the plain client."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def put_plan(self, *limits: Body, plan_id: str | None = None) -> None:
        _succeeded(await self.http.put(f"/v1/plans/{plan_id or usual.plan_id}", json=plan(*limits)))

    async def put_account(self, account_id: str | None = None, **fields: Any) -> None:
        _succeeded(await self.http.put(f"/v1/accounts/{account_id or usual.account_id}", json=account(**fields)))

    async def set_up(self, *limits: Body, **fields: Any) -> None:
        """The usual plan with these limits, and the usual account on it."""
        await self.put_plan(*limits)
        await self.put_account(**fields)

    async def check(self, body: Body) -> Body:
        """The decision."""
        return _succeeded(await self.http.post("/v1/limit-checks", json=body))

    async def send(self, *events: Body) -> Body:
        """Sends events as one batch: ``{accepted, duplicates, rejected}``."""
        headers = {"content-type": BATCH_CONTENT_TYPE}
        return _succeeded(await self.http.post("/v1/events", content=json.dumps(events), headers=headers))

    async def send_one(self, event: Body | bytes) -> httpx.Response:
        """Sends one event, or what shall pass for one."""
        content = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self.http.post("/v1/events", content=content, headers={"content-type": CONTENT_TYPE})

    async def release(self, operation_id: str) -> httpx.Response:
        return await self.http.post(f"/v1/reservations/{operation_id}:release")

    async def extend(self, operation_id: str, **body: Any) -> httpx.Response:
        return await self.http.post(f"/v1/reservations/{operation_id}:extend", json=body)

    async def ask_move(self, decision: Body, **to: Any) -> httpx.Response:
        """Asks for the hold that this decision placed to be moved."""
        body = {"placed_at": decision["decided_at"], **moved_to(**to)}
        return await self.http.post(f"/v1/reservations/{decision['operation_id']}:move", json=body)

    async def move(self, decision: Body, **to: Any) -> Body:
        """The decision on that."""
        return _succeeded(await self.ask_move(decision, **to))

    async def decision(self, operation_id: str) -> Body:
        answer = await self.http.get(f"/v1/decisions/{operation_id}")
        found = _succeeded(answer)
        ExplainedDecision.model_validate_json(answer.content, extra="forbid")  # as it is documented
        return found

    async def usage(self, account_id: str | None = None, **query: str) -> Body:
        return _succeeded(await self.http.get(f"/v1/accounts/{account_id or usual.account_id}/usage", params=query))

    async def usage_log(self, account_id: str | None = None, **query: Any) -> Body:
        return _succeeded(await self.http.get(f"/v1/accounts/{account_id or usual.account_id}/usage-log", params=query))

    async def limit(self, limit_id: str = "images") -> Body:
        """How one limit of the usual account stands now."""
        [found] = [one for one in (await self.usage())["limits"] if one["limit_id"] == limit_id]
        return dict(found)


def _succeeded(response: httpx.Response) -> Body:
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    body: Body = response.json()
    return body


@dataclass(frozen=True)
class Ledger(Client):
    """A ledger that runs in this process."""

    http: httpx.AsyncClient
    url: str


class QuickServer(uvicorn.Server):
    async def main_loop(self) -> None:
        # As uvicorn's own, which looks only ten times a second whether it is to end: most tests end sooner.
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110  uvicorn has a flag
            await asyncio.sleep(POLL_SECONDS)


class _Server(QuickServer):
    """Leaves signals to us. A worker that dies asks for SIGTERM: then the test fails, and pytest lives."""

    died = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def on_signal(_: int, __: FrameType | None) -> None:
            self.died = self.should_exit = True

        before = signal.signal(signal.SIGTERM, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[Ledger]:
    """The ledger on a free port of this machine, from its start to its graceful end."""
    # Not above: pure tests, which start no ledger, would wait for all that it is made of.
    from ledger_service.main import KEEP_ALIVE_SECONDS, create_app

    app = create_app(Settings(**{**QUICK, **changes}))
    # The protocol is named, as asyncio turns Nagle's algorithm off for TCP alone: else each answer waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                log_config=None,
                timeout_graceful_shutdown=5,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        task = asyncio.create_task(server.serve([listener]))
        await eventually(lambda: server.started or task.done(), "the ledger starts")
        assert server.started, "the ledger did not start: see its log above"
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(
                base_url=url, headers=AUTHORIZED, timeout=WAIT_SECONDS, transport=Spread()
            ) as http:
                yield Ledger(http, url)
        finally:
            server.should_exit = True
            await task
    assert not server.died, "a worker of the ledger died: see its log above"


class LedgerProcess(ServiceProcess):
    """``python -m ledger_service``; its settings come as LEDGER_* in its environment."""

    def __init__(self, port: int, log_path: Path, settings: Mapping[str, object]) -> None:
        wanted = {**QUICK, "port": port, **settings}
        environment = {f"LEDGER_{name.upper()}": str(value) for name, value in wanted.items()}
        super().__init__("ledger", (sys.executable, "-m", "ledger_service"), environment, log_path, port=port)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(
            base_url=self.url, headers=AUTHORIZED, timeout=WAIT_SECONDS, transport=Spread()
        ) as http:
            yield Client(http)

    def end(self, wanted: signal.Signals) -> int:
        """Sends a signal and waits for the end; the exit code."""
        assert self._popen is not None
        self._popen.send_signal(wanted)
        return self._popen.wait(WAIT_SECONDS)


async def eventually(condition: Callable[[], object], what: str, within_seconds: float = WAIT_SECONDS) -> None:
    """Polls until the condition, which may be a coroutine, answers something true; AssertionError at the deadline."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"waited {within_seconds:g} s in vain until: {what}"
        await asyncio.sleep(POLL_SECONDS)
