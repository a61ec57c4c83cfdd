"""Our own services as processes of the stack."""

import http.client
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.ports import HOST
from deploy.local.processes import Command, ManagedProcess

PROBE_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class ServiceCommands:
    """What starts our services. Tests put stand-ins here."""

    migrate: Sequence[str] = (sys.executable, "-m", "ledger_service.cli", "migrate", "--shipped-prices")
    ledger: Sequence[str] = (sys.executable, "-m", "ledger_service")
    image: Sequence[str] = (sys.executable, "-m", "image_service")


class ServiceProcess(ManagedProcess):
    """An HTTP service that answers 200 on /readyz once it serves; without a port, a command that runs to its end."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
        *,
        port: int | None = None,
        ready_timeout_seconds: float = 60.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.log_path = log_path
        self.ready_timeout_seconds = ready_timeout_seconds
        self._argv = argv
        self._environment = {"PYTHONUNBUFFERED": "1", **environment}
        self._port = port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def command(self) -> Command:
        return Command(self._argv, self._environment)

    def probe(self) -> bool:
        if self._port is None:
            return self.exit_code() == 0
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
