"""PostgreSQL, NATS and both services on this machine: started in order, kept up, stopped in order."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.folder import DataFolder, Pids, StackState
from deploy.local.ports import HOST, claim
from deploy.local.processes import ManagedProcess
from deploy.local.servers import NatsServer, PostgresServer
from deploy.local.services import ServiceCommands, ServiceProcess
from deploy.local.supervision import RAPID_FAILURES_MAX, Report, bring_up, bring_up_together, follow, keep_up
from deploy.local.tokens import DevTokens
from deploy.postgres.roles import AUDITOR, FINANCE, OWNER, ROLES, SERVICE, make_roles

#: More than the image service takes to stop: its operations have 20 seconds to end, and some more to be recorded.
IMAGE_STOP_SECONDS: Final = 35.0

READY_TIMEOUT_SECONDS = 60.0
MIGRATE_TIMEOUT_SECONDS = 300.0
#: What makes the `ledger` command work on this stack.
LEDGER_ENVIRONMENT_FILE = "ledger.env"


@dataclass(frozen=True)
class ExternalServers:
    """Real servers to use instead of starting ours."""

    database_url: str | None = None
    ledger_nats_url: str | None = None
    image_nats_url: str | None = None
    ledger_url: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ExternalServers":
        """One NATS URL serves both services where the other one is not given."""
        ledger_nats = environment.get("LEDGER_NATS_URL") or environment.get("IMAGE_NATS_URL")
        return cls(
            database_url=environment.get("LEDGER_DATABASE_URL") or None,
            ledger_nats_url=ledger_nats or None,
            image_nats_url=environment.get("IMAGE_NATS_URL") or ledger_nats or None,
            ledger_url=environment.get("IMAGE_LEDGER_URL") or None,
        )


@dataclass(frozen=True)
class StackOptions:
    """Ports: 0 = a free one."""

    data_dir: Path
    ledger_port: int = 0
    image_port: int = 0
    postgres_port: int = 0
    nats_port: int = 0
    emulate_providers: bool = False
    emulators_port: int = 0
    external: ExternalServers = field(default_factory=ExternalServers)
    commands: ServiceCommands = field(default_factory=ServiceCommands)
    environment: Mapping[str, str] = field(default_factory=dict)  # for the services, beside our own
    durable: bool = True
    console: bool = False  # the image service's output goes to standard error, too
    rapid_failures_max: int = RAPID_FAILURES_MAX
    ready_timeout_seconds: float = READY_TIMEOUT_SECONDS


class Stack:
    """Start it on the thread that lives longest: its processes are ended when that thread ends."""

    def __init__(self, options: StackOptions, report: Report = lambda _: None) -> None:
        self._options = options
        self._report = report
        self._folder: DataFolder | None = None
        self._state: StackState | None = None
        self._postgres: PostgresServer | None = None
        self._nats: NatsServer | None = None
        self._ledger: ServiceProcess | None = None
        self._image: ServiceProcess | None = None
        self._emulators: ServiceProcess | None = None
        self._emulator_ports = (0, 0)
        self._tokens: DevTokens | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def token(self) -> str:
        """With all scopes, as DIR/dev-token has it. Raises StackError where the ledger runs elsewhere."""
        if self._tokens is None:
            raise StackError("The ledger runs elsewhere: only it can make tokens.")
        return self._tokens.all_scopes

    @property
    def state(self) -> StackState:
        """As stack.json has it: with the process numbers of now."""
        if self._state is None:
            raise StackError("The stack is not ready yet.")
        return self._state

    async def start(self) -> None:
        """Returns when both services are ready and stack.json is written. Call `stop` whether it raises or not."""
        options = self._options
        self._folder = await asyncio.to_thread(DataFolder.open, options.data_dir)
        image_port = claim(options.image_port, "--image-port")
        own_ledger = options.external.ledger_url is None
        ledger_port = claim(options.ledger_port, "--ledger-port") if own_ledger else 0
        if own_ledger:
            self._tokens = await asyncio.to_thread(DevTokens.of, self._folder)
        await self._start_servers(self._folder)
        if options.emulate_providers:
            await self._start_emulators(self._folder)
        self._image = self._image_process(self._folder, image_port, ledger_port)
        if own_ledger:
            self._ledger = self._ledger_process(self._folder, ledger_port)
            self._folder.write_environment(LEDGER_ENVIRONMENT_FILE, self._ledger_environment(self._folder, "ledger"))
            await self._migrate(self._folder)
        if options.console:
            self._tasks.append(asyncio.create_task(follow(self._image.log_path)))
        await bring_up_together(service for service in (self._ledger, self._image) if service)
        self._write_state()
        for child in self._children():
            task = keep_up(child, self._write_state, self._report, options.rapid_failures_max)
            self._tasks.append(asyncio.create_task(task))

    async def wait(self) -> None:
        """Returns never; raises RepeatedFailureError when a process cannot be kept up."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Clients before the servers that they use, each with a bounded wait. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for child in self._children():
            await asyncio.to_thread(child.stop)
        if self._folder is not None:
            self._folder.remove_state()
            self._folder.close()
            self._folder = None

    def _children(self) -> list[ManagedProcess]:
        """Those that we started, in the order of stopping."""
        ours = (self._image, self._ledger, self._emulators, self._nats, self._postgres)
        return [child for child in ours if child is not None]

    async def _start_servers(self, folder: DataFolder) -> None:
        options, external = self._options, self._options.external
        own_ledger = external.ledger_url is None
        if own_ledger and external.database_url is None:
            port = claim(options.postgres_port, "--postgres-port") if options.postgres_port else None
            self._postgres = PostgresServer(
                folder.path / "postgres", port, log_path=folder.log("postgres"), durable=options.durable
            )
        if external.image_nats_url is None or (own_ledger and external.ledger_nats_url is None):
            port = claim(options.nats_port, "--nats-port") if options.nats_port else None
            self._nats = NatsServer(folder.path / "nats", port, log_path=folder.log("nats"), guarded=True)
        await bring_up_together(server for server in (self._nats, self._postgres) if server)

    async def _start_emulators(self, folder: DataFolder) -> None:
        # Imported here: only who emulates waits for what the emulators need.
        from deploy.local.emulated import emulator_process

        options = self._options
        port = claim(options.emulators_port, "--emulators-port")
        self._emulator_ports = (port, claim(0, "--emulators-port"))
        self._emulators = emulator_process(
            *self._emulator_ports, folder.log("emulators"), options.ready_timeout_seconds
        )
        await bring_up(self._emulators)

    def _emulated_providers(self) -> Mapping[str, str]:
        """Over whatever our own environment says: who emulates wants to pay nobody."""
        if self._emulators is None:
            return {}
        from deploy.local.emulated import for_image_service

        return for_image_service(*self._emulator_ports)

    def _emulator_urls(self) -> dict[str, str] | None:
        if self._emulators is None:
            return None
        from deploy.local.emulated import emulator_urls

        return emulator_urls(*self._emulator_ports)

    def _database_url(self) -> str | None:
        return self._postgres.url if self._postgres else self._options.external.database_url

    def _service_url(self, folder: DataFolder) -> str:
        """For the ledger itself: of our own server, under a role that can only append to the log."""
        if self._postgres is not None:
            return self._postgres.url_as(SERVICE, _password(folder, SERVICE))
        return self._options.external.database_url or ""

    def _nats_url(self, user: str, external: str | None) -> str:
        if self._nats is not None:
            return self._nats.url_of(user)
        assert external is not None
        return external

    def _ledger_environment(self, folder: DataFolder, nats_user: str) -> dict[str, str]:
        # Seals outside of the database, which they are there to watch; whoever has a better place names it.
        defaults = {
            "LEDGER_SEALS_KEY_FILE": str(folder.path / "seals" / "key.pem"),
            "LEDGER_SEALS_FILE": str(folder.path / "seals" / "checkpoints"),
            "LEDGER_WEBHOOK_INSECURE_HOSTS": '["127.0.0.1", "localhost"]',  # receivers on this machine
        }
        return {
            **{name: value for name, value in defaults.items() if name not in os.environ},
            **self._options.environment,
            "LEDGER_DATABASE_URL": self._service_url(folder),
            "LEDGER_NATS_URL": self._nats_url(nats_user, self._options.external.ledger_nats_url),
        }

    async def _make_roles(self, folder: DataFolder, postgres: PostgresServer) -> dict[str, str]:
        """A role for each job, as in production, with passwords of this folder's own; readers find theirs in a file.

        Answers what makes `ledger migrate` work as the owner.
        """
        passwords = {role: _password(folder, role) for role in ROLES}
        await make_roles(postgres.url, passwords)
        for role in (FINANCE, AUDITOR):
            folder.write_line(f"{role}-url", postgres.url_as(role, passwords[role]))
        return {"LEDGER_OWNER_DATABASE_URL": postgres.url_as(OWNER, passwords[OWNER])}

    async def _migrate(self, folder: DataFolder) -> None:
        owner = await self._make_roles(folder, self._postgres) if self._postgres else {}
        migration = ServiceProcess(
            "migrate",
            self._options.commands.migrate,
            {
                **self._ledger_environment(folder, "deploy"),
                **owner,
                **(self._tokens.for_migration if self._tokens else {}),
            },
            folder.log("migrate"),
            ready_timeout_seconds=MIGRATE_TIMEOUT_SECONDS,
        )
        try:
            await bring_up(migration)
        finally:
            await asyncio.to_thread(migration.stop)

    def _ledger_process(self, folder: DataFolder, port: int) -> ServiceProcess:
        return ServiceProcess(
            "ledger",
            self._options.commands.ledger,
            {**self._ledger_environment(folder, "ledger"), "LEDGER_HOST": HOST, "LEDGER_PORT": str(port)},
            folder.log("ledger"),
            port=port,
            ready_timeout_seconds=self._options.ready_timeout_seconds,
        )

    def _image_process(self, folder: DataFolder, port: int, ledger_port: int) -> ServiceProcess:
        options = self._options
        environment = {
            **options.environment,
            "IMAGE_NATS_URL": self._nats_url("image", options.external.image_nats_url),
            **({} if self._nats is None else {"IMAGE_NATS_INBOX_PREFIX": "_INBOX_image"}),
            "IMAGE_LEDGER_URL": options.external.ledger_url or f"http://{HOST}:{ledger_port}",
            "IMAGE_HOST": HOST,
            "IMAGE_PORT": str(port),
            "IMAGE_DATA_DIR": str(folder.path / "image"),
            **(self._tokens.for_image_service if self._tokens else {}),
            **self._emulated_providers(),
        }
        image = ServiceProcess(
            "image",
            options.commands.image,
            {**environment, "IMAGE_CONSOLE": "1"} if options.console else environment,
            folder.log("image"),
            port=port,
            ready_timeout_seconds=options.ready_timeout_seconds,
        )
        image.stop_signals = ((signal.SIGTERM, IMAGE_STOP_SECONDS),)
        return image

    def _write_state(self) -> None:
        assert self._folder is not None
        assert self._image is not None
        pids = {
            "ledger": self._ledger.pid if self._ledger else None,
            "image": self._image.pid,
            "nats": self._nats.pid if self._nats else None,
            "postgres": self._postgres.pid if self._postgres else None,
        }
        self._state = StackState(
            ledger_url=self._ledger.url if self._ledger else str(self._options.external.ledger_url),
            image_url=self._image.url,
            nats_url=self._nats_url("producer", self._options.external.image_nats_url),
            database_url=self._database_url(),
            pids=Pids(**pids),
            emulator_urls=self._emulator_urls(),
            emulator_pid=self._emulators.pid if self._emulators else None,
        )
        self._folder.write_state(self._state)


def _password(folder: DataFolder, role: str) -> str:
    return folder.secret("ledger-password" if role == SERVICE else f"{role}-password")


@asynccontextmanager
async def running_stack(options: StackOptions, report: Report = lambda _: None) -> AsyncIterator[Stack]:
    """A ready stack, stopped at the end. What cannot be kept up is raised there, if nothing else was."""
    stack = Stack(options, report)
    try:
        await stack.start()
        watch = asyncio.create_task(stack.wait())
        try:
            yield stack
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if not watch.cancelled():
            watch.result()
    finally:
        await stack.stop()


def external_servers() -> ExternalServers:
    """As this process's environment names them."""
    return ExternalServers.from_environment(os.environ)
