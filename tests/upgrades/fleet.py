"""Servers on a data folder, and services of any version on them."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import nats
from nats.aio.client import Client
from nats.js.api import ConsumerInfo

from contracts.subjects import INGEST_CONSUMER, STREAM
from deploy.local.ports import HOST, free_port
from deploy.local.servers import NatsServer, PostgresServer
from deploy.local.services import ServiceProcess
from deploy.postgres.roles import OWNER, SERVICE, make_roles
from tests.servers import PASSWORDS, QUICK, run_apart
from tests.tokens import BOOTSTRAP, TOKEN
from tests.upgrades.versions import Version

COMMAND_SECONDS: Final = 60
STOP_SECONDS: Final = 30
_CODE: Final = "code: "
#: `python -m`, but it says first whose code it runs.
_RUN: Final = f"""
import importlib.util, runpy, sys
print("{_CODE}" + importlib.util.find_spec(sys.argv[1] + ".main").origin, flush=True)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class Service(ServiceProcess):
    """A ledger or an image service; each start may be of another version, on the same port and folder."""

    def __init__(self, name: str, module: str, environment: dict[str, str], folder: Path) -> None:
        self.port = free_port()
        self._module, self._settings = module, environment
        super().__init__(name, (), {}, folder / f"{name}.log", port=self.port)

    def launch_as(self, version: Version) -> None:
        self._argv = (sys.executable, "-c", _RUN, self._module)
        self._environment = {"PYTHONUNBUFFERED": "1", **self._settings, **version.environment}
        self.launch()

    async def start_as(self, version: Version) -> None:
        """Returns when it is ready, and has shown that it is of this version."""
        self.launch_as(version)  # on the loop's own thread: it is ended with the thread that launched it
        if not await asyncio.to_thread(self._serves_in_time):
            raise self.not_ready()
        await asyncio.to_thread(self.prove, version)

    async def replace_by(self, version: Version) -> None:
        """As a rolling upgrade does: it is asked to end, and then started anew."""
        await asyncio.to_thread(self.stop)
        await self.start_as(version)

    def prove(self, version: Version) -> None:
        """It said from where its code is, and tells its version, if that version does so."""
        places = [line for line in self.log_path.read_text().splitlines() if line.startswith(_CODE)]
        assert places[-1] == f"{_CODE}{version.tree}/{self._module}/main.py", f"{self.name} runs {places[-1]}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        with closing(connection):
            connection.request("GET", "/livez")
            told = json.loads(connection.getresponse().read()).get("version")
        assert told == version.tells, f"{self.name} is {told}, and not {version}"

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """The signal, and until it is gone."""
        assert self._popen is not None
        self._popen.send_signal(number)
        self._popen.wait(STOP_SECONDS)

    def send(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)


class Fleet:
    """PostgreSQL, NATS with its identities, and some services of each kind."""

    def __init__(self, folder: Path, ledgers: int, images: int) -> None:
        self.folder = folder
        self.postgres = PostgresServer(folder / "postgres", durable=False, settings={"shared_buffers": "32MB"})
        self.nats = NatsServer(folder / "nats", guarded=True)
        self._counts = (ledgers, images)
        self.ledgers: list[Service] = []
        self.images: list[Service] = []

    def start_servers(self) -> None:
        self.postgres.start()
        self.nats.start()
        run_apart(make_roles(self.postgres.url, PASSWORDS))
        ledgers, images = self._counts
        self.ledgers = [
            Service(f"ledger-{n}", "ledger_service", self._of_ledger(), self.folder) for n in range(1, ledgers + 1)
        ]
        for one in self.ledgers:
            one._settings["LEDGER_PORT"] = str(one.port)
        for n in range(1, images + 1):
            # Each asks the ledger of its number: what one that is away does to its customers is part of it.
            settings = {
                **self._image_nats,
                "IMAGE_LEDGER_URL": self.ledgers[min(n, ledgers) - 1].url,
                "IMAGE_LEDGER_TOKEN": TOKEN,
                "IMAGE_CONFIRM_AFTER_SECONDS": "2",
                "IMAGE_PROVIDER_TIMEOUT_SECONDS": "5",
                "IMAGE_DATA_DIR": str(self.journal_folder(n)),
            }
            service = Service(f"image-{n}", "image_service", settings, self.folder)
            service._settings["IMAGE_PORT"] = str(service.port)
            self.images.append(service)

    def journal_folder(self, number: int) -> Path:
        return self.folder / f"image-{number}"

    @property
    def services(self) -> list[Service]:
        return [*self.ledgers, *self.images]

    def close(self) -> None:
        for service in self.services:
            if service.running:
                service.send(signal.SIGCONT)
                service.kill()
        self.nats.stop()
        self.postgres.stop()

    # --- as an operator works ---

    def run(self, version: Version, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ledger …` of that version. What makes the streams may not read what is sealed."""
        identity = "deploy" if arguments[0] == "migrate" else "ledger"
        return subprocess.run(
            [sys.executable, "-m", "ledger_service.cli", *arguments],
            env={**os.environ, **self._of_ledger(identity), **self._of_owner, **version.environment, "COLUMNS": "200"},
            capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip

    async def migrate(self, version: Version) -> str:
        """What it said."""
        done = await asyncio.to_thread(self.run, version, "migrate", "--shipped-prices")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def _of_ledger(self, identity: str = "ledger") -> dict[str, str]:
        return {
            **{f"LEDGER_{name.upper()}": str(value) for name, value in QUICK.items()},
            "LEDGER_DATABASE_URL": self.postgres.url_as(SERVICE, PASSWORDS[SERVICE]),
            "LEDGER_NATS_URL": self.nats.url_of(identity),
            "LEDGER_SEALS_KEY_FILE": str(self.folder / "seals" / "key.pem"),
            "LEDGER_SEALS_FILE": str(self.folder / "seals" / "checkpoints"),
            "LEDGER_SEALS_INTERVAL_SECONDS": "0.5",
        }

    @property
    def _of_owner(self) -> dict[str, str]:
        return {**BOOTSTRAP, "LEDGER_OWNER_DATABASE_URL": self.postgres.url_as(OWNER, PASSWORDS[OWNER])}

    @property
    def _image_nats(self) -> dict[str, str]:
        return {"IMAGE_NATS_URL": self.nats.url_of("image"), "IMAGE_NATS_INBOX_PREFIX": "_INBOX_image"}

    # --- what there is ---

    def journal(self, number: int, query: str) -> Any:  # Any: one value of whatever type
        """Out of the journal of an image service."""
        place = f"file:{self.journal_folder(number)}/journal.db?mode=ro"
        with closing(sqlite3.connect(place, uri=True, timeout=10)) as journal:
            return journal.execute(query).fetchone()[0]

    def unconfirmed(self) -> int:
        """Events in journals that no ledger has confirmed."""
        return sum(self.journal(n + 1, "select count(*) from outbox") for n in range(len(self.images)))

    def unfinished(self) -> int:
        """Operations in journals without an outcome."""
        query = "select count(*) from operations where state = 'intent'"
        return sum(self.journal(n + 1, query) for n in range(len(self.images)))

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Client]:
        client = await nats.connect(self.nats.url_of("producer"), connect_timeout=5)
        try:
            yield client
        finally:
            await client.close()

    async def consumer(self) -> ConsumerInfo:
        """Of the ledger's consumer: how much of the stream it has not had, and not acknowledged."""
        async with self.producer() as client:
            found: ConsumerInfo = await client.jetstream().consumer_info(STREAM, INGEST_CONSUMER)
            return found

    async def fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.postgres.url, timeout=10)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()


@contextmanager
def fleet_in(folder: Path, ledgers: int = 1, images: int = 1) -> Iterator[Fleet]:
    """Servers that run, and services that do not yet; nothing is left at the end."""
    fleet = Fleet(folder, ledgers, images)
    with contextlib.ExitStack() as stack:
        stack.callback(fleet.close)
        fleet.start_servers()
        yield fleet
