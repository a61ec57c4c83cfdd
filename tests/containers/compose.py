"""deploy/compose/compose.yaml on a real Docker engine: brought up, asked, restarted, taken down."""

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deploy.local.ports import free_port

REPOSITORY: Final = Path(__file__).parents[2]
FILE: Final = REPOSITORY / "deploy" / "compose" / "compose.yaml"
LEDGERS: Final = ("ledger-1", "ledger-2")
IMAGES: Final = ("image-1", "image-2")
SERVICES: Final = (*LEDGERS, *IMAGES)
PORTS: Final = {"ledger-1": 8001, "ledger-2": 8001, "image-1": 8000, "image-2": 8000}
BUILD_SECONDS: Final = 1800
UP_SECONDS: Final = 420
COMMAND_SECONDS: Final = 180
POLL_SECONDS: Final = 0.5
#: Docker's major version from which on its command needs a component for BuildKit.
BUILDX_IS_APART: Final = 23


class ComposeError(Exception):
    """A command of the engine failed; the text has what it said."""


def compose_command() -> tuple[str, ...]:
    """Version 2 where Docker has it, else docker-compose."""
    if shutil.which("docker") and _succeeds("docker", "compose", "version"):
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise ComposeError("neither `docker compose` nor docker-compose is installed")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS).returncode == 0


def builder() -> dict[str, str]:
    """The environment in which docker builds with BuildKit, which takes a quarter of the time; empty where none does.

    Of several docker commands on a machine, newer ones without their buildx component cannot.
    """
    for folder in os.get_exec_path():
        command = Path(folder, "docker")
        if not command.is_file():
            continue
        version = subprocess.run((command, "--version"), capture_output=True, text=True, timeout=COMMAND_SECONDS).stdout
        found = re.search(r"version (\d+)", version)
        has_its_own = found is not None and int(found[1]) < BUILDX_IS_APART
        if has_its_own or _succeeds(str(command), "buildx", "version"):
            return {"DOCKER_BUILDKIT": "1", "PATH": os.pathsep.join([folder, *os.get_exec_path()])}
    return {}


def engine_answers() -> bool:
    return bool(shutil.which("docker")) and _succeeds("docker", "version")


def docker(*arguments: str, seconds: float = COMMAND_SECONDS) -> str:
    """What the command prints, on both outputs. Raises ComposeError."""
    return _run(("docker", *arguments), seconds=seconds)


def _run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, seconds: float) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ComposeError(f"{' '.join(command)} took more than {seconds:g} s:\n{error.output}") from error
    if done.returncode != 0:
        raise ComposeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def postgres_has_tls(image: str) -> bool:
    """Whether the image's PostgreSQL was built with it: the official ones are."""
    look = 'grep -q SSL_CTX_new "$(command -v postgres)" && echo yes || echo no'
    return docker("run", "--rm", "--entrypoint", "sh", image, "-c", look).strip().endswith("yes")


class Compose:
    """One project of its own name and ports: nothing of it meets another one's."""

    def __init__(self) -> None:
        self._command = compose_command()
        self.project = f"usage-ledger-{secrets.token_hex(4)}"
        self.has_tls = postgres_has_tls(os.environ.get("POSTGRES_IMAGE", "postgres:18"))
        self._ports = {service: free_port() for service in SERVICES}
        ports = {f"{service.upper().replace('-', '_')}_PORT": str(port) for service, port in self._ports.items()}
        self._environment = {
            **ports,
            "TAG": "containers-test",
            "POSTGRES_TLS": "on" if self.has_tls else "off",
            # docker-compose 1.29 builds as `docker build` does.
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            **builder(),
        }

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self._ports[service]}"

    def run(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        command = (*self._command, "-f", str(FILE), "-p", self.project, *arguments)
        return _run(command, environment=self._environment, seconds=seconds)

    def build(self) -> None:
        self.run("build", seconds=BUILD_SECONDS)

    def up(self) -> None:
        """Returns when all four services are healthy. Raises ComposeError with the logs of what is not."""
        try:
            self.run("up", "-d", "--no-build", seconds=UP_SECONDS)
            for service in SERVICES:
                self.wait_until_healthy(service)
        except ComposeError as error:
            raise ComposeError(f"{error}\n{self.run('ps', '-a')}\n{self.run('logs', '--tail=40')}") from error

    def down(self) -> None:
        """Containers, networks and volumes of this project; images stay."""
        self.run("down", "--volumes", "--timeout", "30", seconds=UP_SECONDS)

    def container(self, service: str) -> str:
        return self.run("ps", "-q", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:  # Any: Docker's JSON
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.container(service)))
        return found[0]

    def execute(self, service: str, *command: str) -> str:
        """Runs it in the service's container. Raises ComposeError where it ends with another code than 0."""
        return docker("exec", self.container(service), *command)

    def logs(self, *services: str) -> str:
        return "".join(docker("logs", self.container(service)) for service in services)

    def wait_until_healthy(self, service: str, seconds: float = UP_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while (state := self.inspect(service)["State"])["Health"]["Status"] != "healthy":
            if time.monotonic() > deadline:
                raise ComposeError(
                    f"{service} is not healthy after {seconds:g} s: {state}\n{self.logs(service)[-4000:]}"
                )
            time.sleep(POLL_SECONDS)

    def stop(self, service: str) -> tuple[int, float]:
        """SIGTERM, and as long as compose.yaml gives it. Its exit code, and how many seconds it took."""
        container, began = self.container(service), time.monotonic()
        self.run("stop", service)
        seconds = time.monotonic() - began
        return int(docker("inspect", "-f", "{{.State.ExitCode}}", container)), seconds

    def start(self, service: str) -> float:
        """Seconds until it is healthy again."""
        began = time.monotonic()
        self.run("start", service)
        self.wait_until_healthy(service)
        return time.monotonic() - began

    def admin_token(self) -> str:
        shown = self.run("run", "--rm", "--no-deps", "secrets", "--show", "admin-token")
        return next(line for line in shown.split() if line.startswith("ult_"))
