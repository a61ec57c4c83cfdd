"""The data folder of a stack: whose it is, which version made it, who uses it, and what runs on it."""

import fcntl
import json
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from deploy.local.errors import FolderInUseError, FolderVersionError, ForeignFolderError, StackError
from deploy.local.postgres import POSTGRES_MAJOR

PRODUCT = "usage-ledger"
FORMAT = 1
LOCK_TRIES_MAX = 5
LOCK_PAUSE_SECONDS = 0.1
# What a first start leaves that is killed before it wrote the version; what a new file system has.
_HARMLESS = {"lock", ".version.json.new", "lost+found"}


@dataclass(frozen=True)
class Pids:
    """Process numbers; None for what runs elsewhere."""

    ledger: int | None
    image: int | None
    nats: int | None
    postgres: int | None


@dataclass(frozen=True)
class StackState:
    """What stack.json says. Has passwords in its URLs."""

    ledger_url: str
    image_url: str
    nats_url: str
    database_url: str | None  # None where the ledger runs elsewhere
    pids: Pids
    emulator_urls: dict[str, str] | None = None  # by provider, with control and cdn; None where none are emulated
    emulator_pid: int | None = None


def read_state(folder: Path) -> StackState | None:
    """Of the stack on this folder; None where none was ever ready, or the last one was stopped."""
    try:
        content = json.loads((folder / "stack.json").read_text())
        return StackState(**{**content, "pids": Pids(**content["pids"])})
    except FileNotFoundError:
        return None


def running_pid(folder: Path) -> int | None:
    """The process number of the usage-stack that runs on this folder."""
    try:
        with (folder / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0) or None
    except (FileNotFoundError, ValueError):
        pass
    return None


def read_environment(file: Path) -> dict[str, str]:
    """What `write_environment` wrote. Raises OSError where there is no such file."""
    lines = (shlex.split(line) for line in file.read_text().splitlines())
    return dict(word.split("=", 1) for words in lines for word in words)


class DataFolder:
    """An open data folder, locked for this process until `close`."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> "DataFolder":
        """Make the folder, or take it over from a stack that has ended.

        Touches nothing in a folder that is not ours. Raises ForeignFolderError, FolderVersionError, FolderInUseError.
        """
        path = path.resolve()
        try:
            _refuse_foreign(path)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = cls(path, _lock(path))
        except OSError as error:
            raise StackError(
                f"The data folder {path} cannot be used: {error}. Choose another one with --data."
            ) from error
        try:
            folder._check_version()
            folder.remove_state()
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Let others use it. Idempotent."""
        self._lock.close()

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def secret(self, name: str) -> str:
        """A password of this folder's own, made when it is first asked for; readable for the owner only."""
        file = self.path / name
        if not file.exists():
            self._write(name, secrets.token_urlsafe(24))
        return str(json.loads(file.read_text()))

    def kept_secret(self, name: str, make: Callable[[], str]) -> str:
        """The first line of a file of this folder, which its owner alone can read; made where there is none."""
        file = self.path / name
        try:
            kept = file.read_text().partition("\n")[0].strip()
        except FileNotFoundError:
            kept = ""
        if not kept:
            kept = make()
            self._replace(name, f"{kept}\n")
        return kept

    def write_line(self, name: str, line: str) -> None:
        """A file of one line, readable for the owner only."""
        self._replace(name, f"{line}\n")

    def write_environment(self, name: str, variables: Mapping[str, str]) -> None:
        """The same for variables of the environment, as a shell reads them: ``set -a; . DIR/name``."""
        self._replace(name, "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items()))

    def write_state(self, state: StackState) -> None:
        self._write("stack.json", asdict(state))

    def remove_state(self) -> None:
        (self.path / "stack.json").unlink(missing_ok=True)

    def _check_version(self) -> None:
        file = self.path / "version.json"
        if not file.exists():
            self._write("version.json", {"product": PRODUCT, "format": FORMAT, "postgres_major": POSTGRES_MAJOR})
            return
        found = _read_version(file)
        if found["format"] != FORMAT or found["postgres_major"] != POSTGRES_MAJOR:
            raise FolderVersionError(
                f"{self.path} was made by another version (data format {found['format']}, "
                f"PostgreSQL {found['postgres_major']}); this one reads format {FORMAT}, PostgreSQL {POSTGRES_MAJOR}. "
                "Use the version that made it, or choose another folder with --data."
            )

    def _write(self, name: str, content: object) -> None:
        self._replace(name, json.dumps(content, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Whole or not at all, readable for the owner only."""
        temporary = self.path / f".{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(text)
        temporary.replace(self.path / name)


def _read_version(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("product") != PRODUCT:
        raise ForeignFolderError(file.parent)
    return {"format": found.get("format"), "postgres_major": found.get("postgres_major")}


def _refuse_foreign(path: Path) -> None:
    if not path.exists() or (path.is_dir() and (path / "version.json").is_file()):
        return
    if not path.is_dir() or {entry.name for entry in path.iterdir()} - _HARMLESS:
        raise ForeignFolderError(path)


def _lock(path: Path) -> IO[str]:
    """Held until the file is closed, or this process ends, however it ends."""
    file = path / "lock"
    file.touch(mode=0o600)
    lock = file.open("r+")
    for attempt in range(LOCK_TRIES_MAX):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < LOCK_TRIES_MAX:
                time.sleep(LOCK_PAUSE_SECONDS)  # `usage-stack status` holds it for an instant
            continue
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return lock
    pid = lock.read().strip()
    lock.close()
    raise FolderInUseError(path, pid)
