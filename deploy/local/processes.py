"""One process that is started, waited for and stopped. No threads and no event loop: the callers bring theirs."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.errors import NotReadyError

POLL_SECONDS = 0.02
LAUNCH_ATTEMPTS_MAX = 10
LAUNCH_PAUSE_SECONDS = 0.3
LOG_BYTES_MAX = 10 * 1024 * 1024
TAIL_BYTES_MAX = 4096
TAIL_LINES_MAX = 20
KILL_WAIT_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Command:
    """What to execute, as whom, with which additions to our own environment."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None  # uid and gid; None = as we are
    group: int | None = None


def _die_with_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    """What the child runs before exec: it gets the signal when the *thread* that started it ends."""

    def in_child() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return in_child


def exit_reason(code: int) -> str:
    """The exit code of a process, in words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class ManagedProcess(ABC):
    """A child process with a log file and a readiness probe.

    `launch` must be called on a thread that lives as long as the child shall (as a rule the main one): the child is
    ended with it, so that a killed supervisor leaves nothing behind. The other methods may run on any thread.
    """

    name: str
    log_path: Path
    stop_signals: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 10.0),)  # each with seconds to wait
    death_signal: signal.Signals = signal.SIGKILL
    transient_failures: Sequence[str] = ()  # what its log says where another launch may go better
    ready_timeout_seconds: float = 60.0

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Command:
        """What to execute; asked anew at each launch."""

    @abstractmethod
    def probe(self) -> bool:
        """Whether it serves now. Does not raise for one that is starting or gone, and answers within a second."""

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make what it needs on disk. Idempotent; may take a second."""

    @property
    def pid(self) -> int | None:
        """Of the last launch, whether it still runs or not."""
        return None if self._popen is None else self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def launch(self) -> None:
        """Start it and return at once; nothing happens where it runs already."""
        if self.running:
            return
        command = self.command()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._rotate_log()
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                command.argv,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=command.user,
                group=command.group,
                extra_groups=None if command.user is None else [],
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor: it stops them in order
                preexec_fn=_die_with_parent(os.getpid(), self.death_signal),  # noqa: PLW1509 - two system calls
            )

    def exit_code(self) -> int | None:
        """None while it runs, and before the first launch."""
        return None if self._popen is None else self._popen.poll()

    def start(self) -> None:
        """Prepare, launch, and wait until it serves; NotReadyError with the end of its log where it does not."""
        self.prepare()
        for _ in range(LAUNCH_ATTEMPTS_MAX):
            self.launch()
            if self._serves_in_time():
                return
            if not self.failed_transiently():
                break
            time.sleep(LAUNCH_PAUSE_SECONDS)
        failure = self.not_ready()
        self.stop()
        raise failure

    def _serves_in_time(self) -> bool:
        deadline = time.monotonic() + self.ready_timeout_seconds
        while time.monotonic() < deadline:
            if self.probe():
                return True
            if self.exit_code() is not None:
                return False
            time.sleep(POLL_SECONDS)
        return False

    def failed_transiently(self) -> bool:
        """Whether it ended, for a reason that may be gone at the next launch."""
        if self.exit_code() is None:
            return False
        log = self.tail()
        return any(reason in log for reason in self.transient_failures)

    def not_ready(self) -> NotReadyError:
        """The error for one that ended or does not answer, with the end of its log."""
        code = self.exit_code()
        what = f"did not answer within {self.ready_timeout_seconds:g} s" if code is None else exit_reason(code)
        return NotReadyError(f"{self.name} {what}. Its log, {self.log_path}, ends with:\n{self.tail()}")

    def stop(self) -> None:
        """End it, gently first. Returns when it is gone, at the latest when the waits of `stop_signals` are over."""
        if self._popen is None or self._popen.poll() is not None:
            return
        for wanted, seconds in (*self.stop_signals, (signal.SIGKILL, KILL_WAIT_SECONDS)):
            self._popen.send_signal(wanted)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
                break
        with suppress(ProcessLookupError, PermissionError):  # what it started itself is in its process group
            os.killpg(self._popen.pid, signal.SIGKILL)

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES_MAX))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES_MAX:]) or "(the log is empty)"

    def _rotate_log(self) -> None:
        try:
            full = self.log_path.stat().st_size > LOG_BYTES_MAX
        except FileNotFoundError:
            return
        if full:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
