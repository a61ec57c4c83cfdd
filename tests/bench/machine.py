"""The servers and services that are measured: real ones, fsync on, each in its own process."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from deploy.local.ports import free_port
from deploy.local.servers import NatsServer, PostgresServer
from tests.tokens import BOOTSTRAP

READY_SECONDS_MAX = 30
STOP_SECONDS_MAX = 20


@dataclass(frozen=True)
class Servers:
    database_url: str
    nats_url: str

    def environment(self, **more: str) -> dict[str, str]:
        return {"LEDGER_DATABASE_URL": self.database_url, "LEDGER_NATS_URL": self.nats_url, **more}


@contextmanager
def servers() -> Iterator[Servers]:
    """PostgreSQL and NATS on an empty folder, with the schema and the stream in place."""
    with tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder:
        postgres, nats = PostgresServer(Path(folder) / "postgres"), NatsServer(Path(folder) / "nats")
        try:
            postgres.start()
            nats.start()
            made = Servers(postgres.url, nats.url)
            subprocess.run(
                [sys.executable, "-m", "ledger_service.cli", "migrate"],
                env={**os.environ, **made.environment(**BOOTSTRAP)},
                check=True,
                capture_output=True,
            )
            yield made
        finally:
            nats.stop()
            postgres.stop()


@dataclass(frozen=True)
class Service:
    url: str
    pid: int

    @property
    def cpu_seconds(self) -> float:
        """What it used of the processors so far, itself and in the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mib(self) -> float:
        """The resident memory that it has now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def memory_mib(self) -> float:
        """The most resident memory it had so far."""
        return peak_mib(self.pid)


def peak_mib(pid: int) -> float:
    """The most resident memory that a process had so far, 0 once it has ended. What its parent is told then has the
    memory of the parent in it (`ru_maxrss`), from before the process became another program."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024 if "VmHWM:" in status else 0.0


@contextmanager
def service(module: str, port_variable: str, environment: Mapping[str, str], wait: bool = True) -> Iterator[Service]:
    """``python -m module`` on a free port; with ``wait`` once /readyz answers 200."""
    port = free_port()
    with tempfile.NamedTemporaryFile(prefix="usage-ledger-bench-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, **environment, port_variable: str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            started = Service(f"http://127.0.0.1:{port}", process.pid)
            if wait:
                _wait_until_ready(started, process, Path(log.name))
            yield started
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(started: Service, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{started.url}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the service did not become ready:\n{log.read_text()[-2000:]}")
