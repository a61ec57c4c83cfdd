"""A stack that can be tampered with: everything that a fault may touch."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import nats
from nats.aio.client import Client

from deploy.local.folder import DataFolder
from deploy.local.ports import HOST, free_port
from tests.e2e.driver import SERVERS, StackProcess, eventually
from tests.faults.cluster import NatsCluster
from tests.faults.machine import Clocks, SmallDisk, UnavailableError
from tests.faults.proxy import Network
from tests.soak.stack import COMMIT_TIMES

#: Shorter than a run, so that holds of operations that died end in it; longer than any outcome takes to arrive.
HOLD_SECONDS: Final = 25
#: Each wire, the server at its end, and the variable that names that to the service at the wire's beginning.
WIRES: Final = {
    "image-ledger": ("ledger", "IMAGE_LEDGER_URL"),
    "image-nats": ("nats", "IMAGE_NATS_URL"),
    "ledger-nats": ("nats", "LEDGER_NATS_URL"),
    "ledger-postgres": ("postgres", "LEDGER_DATABASE_URL"),
}
CLOCKS: Final = ("image", "ledger", "postgres")


class Arena:
    """``stack`` runs; what a fault has done to it is undone by ``heal``. What the machine lacks is in ``missing``."""

    def __init__(
        self, folder: Path, environment: dict[str, str] | None = None, cluster: NatsCluster | None = None
    ) -> None:
        self.folder = folder
        self.missing: dict[str, str] = {}
        self._cluster = cluster
        #: The processes that the stack keeps up.
        self.servers = tuple(name for name in SERVERS if cluster is None or name != "nats")
        if cluster is None:
            self.missing["cluster"] = "NATS is one server here"
        else:
            self.missing["nats"] = "NATS is a cluster here"
        self.network = Network()
        self.points = folder / "points"
        self.points.mkdir()
        self.clocks = self._clocks()
        self.disk = self._disk()
        self._ports = {name: free_port() for name in ("ledger", "image", "nats", "postgres")}
        wires = {}
        for name, (server, variable) in WIRES.items():
            if server not in self.servers:
                continue
            wires[variable] = self.network.lay(name, self._ports[server]).port
        self.stack = StackProcess(
            folder / "data",
            {
                "IMAGE_HOLD_SECONDS": str(HOLD_SECONDS),
                "FAULTS_WIRES": json.dumps(wires),
                "FAULTS_POINTS": str(self.points),
                **(self.clocks.environment if self.clocks else {}),
                **self._cluster_environment(),
                **(environment or {}),
            },
        )
        #: What NATS had acknowledged may be gone: a producer without a journal has to publish it again.
        self.nats_forgot = False
        #: The times of its commits do not tell their order any more.
        self.database_clock_jumped = False
        #: Bodies that are no events, as they were published, and those that NATS acknowledged.
        self.poison: set[bytes] = set()
        self.poison_taken: set[bytes] = set()
        #: What was done, in words.
        self.done: list[str] = []

    @property
    def cluster(self) -> NatsCluster:
        assert self._cluster is not None
        return self._cluster

    def _cluster_environment(self) -> dict[str, str]:
        if self._cluster is None:
            return {}
        urls = ",".join(self._cluster.urls)
        return {
            "LEDGER_NATS_URL": urls,
            "IMAGE_NATS_URL": urls,
            "LEDGER_STREAM_REPLICAS": str(len(self._cluster.nodes)),
        }

    def _clocks(self) -> Clocks | None:
        try:
            return Clocks(CLOCKS)
        except UnavailableError as error:
            self.missing["clocks"] = str(error)
            return None

    def _disk(self) -> SmallDisk | None:
        DataFolder.open(self.folder / "data").close()  # a folder with anything else in it would be refused
        try:
            return SmallDisk(self.folder / "data" / "postgres", self.folder / "disk.img")
        except UnavailableError as error:
            self.missing["disk"] = str(error)
            return None

    @property
    def ledger_url(self) -> str:
        """Known also while the stack is being started."""
        return f"http://{HOST}:{self._ports['ledger']}"

    @property
    def _command(self) -> tuple[str, ...]:
        ports = {f"{name}_port": port for name, port in self._ports.items()}
        return (sys.executable, "-m", "tests.faults.supervisor", str(self.stack.data), json.dumps(ports))

    async def start(self) -> None:
        """Returns when it is ready, and the log's order can be told from its commits."""
        self.stack.start(self._command)
        database = await asyncpg.connect(self.stack.state.database_url)
        try:
            for name, value in COMMIT_TIMES.items():
                await database.execute(f"alter system set {name} = '{value}'")
        finally:
            await database.close()
        await self.stack.kill_and_wait("postgres")

    def close(self) -> None:
        """Leaves nothing behind, whatever was left undone."""
        try:
            if self.stack.supervisor_pid is not None:
                self.heal()
                self.stack.stop()
        finally:
            self.network.close()
            if self.disk:
                self.disk.close()
            if self.clocks:
                self.clocks.close()

    def heal(self) -> None:
        """Undoes whatever a fault that was cancelled has left. Clocks stay: setting them is a jump of its own."""
        self.network.heal()
        if self._cluster:
            for node in self._cluster.nodes:
                node.launch()
        if self.disk:
            self.disk.empty()
        for armed in self.points.iterdir():
            armed.unlink(missing_ok=True)
        supervisor = self.stack.supervisor_pid
        if supervisor is not None:
            with suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGCONT)
        nodes = [node.pid for node in self._cluster.nodes if node.pid] if self._cluster else []
        for pids in (nodes, *(self.family(name) for name in self.servers)):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def family(self, name: str) -> list[int]:
        """The process numbers of a server: itself and its children, which PostgreSQL works with."""
        leader = getattr(self.stack.state.pids, name)
        found = [leader]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, ValueError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if parent == leader:
                        found.append(int(entry.name))
        return found

    @contextmanager
    def supervision_suspended(self) -> Iterator[None]:
        """Meanwhile nothing that dies is started again."""
        supervisor = self.stack.supervisor_pid
        assert supervisor is not None
        os.kill(supervisor, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Client]:
        """A connection to NATS as a producer has it, not through a wire."""
        client = await nats.connect(self.stack.state.nats_url.split(","), allow_reconnect=False, connect_timeout=20)
        try:
            yield client
        finally:
            await client.close()

    async def ready(self, seconds: float = 60.0) -> None:
        """Until both services say so, after whatever it was."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            for port in (self._ports["ledger"], self._ports["image"]):
                address = f"http://{HOST}:{port}/readyz"
                await eventually(lambda a=address: http.get(a), lambda answer: answer.status_code == 200, seconds)  # type: ignore[misc]  # of a lambda's default

    def forget_after(self, nats_store: Path) -> None:
        """Puts an older copy of NATS's store in its place, while it does not run."""
        store = self.stack.data / "nats" / "jetstream"
        shutil.rmtree(store)
        shutil.copytree(nats_store, store)
        self.nats_forgot = True
        self.poison_taken.clear()


@asynccontextmanager
async def arena_in(
    folder: Path, environment: dict[str, str] | None = None, cluster: NatsCluster | None = None
) -> AsyncIterator[Arena]:
    """A ready one, gone at the end whatever happens."""
    arena = Arena(folder, environment, cluster)
    try:
        await arena.start()
        yield arena
    finally:
        await asyncio.to_thread(arena.close)
