"""Brings processes up, and keeps them up: what dies is started again at once, what keeps dying ends the stack."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.local.errors import RepeatedFailureError
from deploy.local.processes import LAUNCH_ATTEMPTS_MAX, LAUNCH_PAUSE_SECONDS, ManagedProcess, exit_reason

WATCH_SECONDS = 0.05
PROBE_SECONDS = 0.1
# A process that served for this long and then died was not broken from its start on.
STABLE_SECONDS = 1.0
RAPID_FAILURES_MAX = 5
# Before the first, second … restart in a row; the last one for all that follow.
BACKOFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0)
FOLLOW_SECONDS = 0.1

Report = Callable[[str], None]


async def bring_up(child: ManagedProcess) -> None:
    """Prepare, launch, and wait until it serves; NotReadyError where it does not, or keeps ending.

    Launches on the event loop's own thread, which lives as long as the stack.
    """
    await asyncio.to_thread(child.prepare)
    for _ in range(LAUNCH_ATTEMPTS_MAX):
        child.launch()
        if await _serves_in_time(child):
            return
        if not child.failed_transiently():
            break
        await asyncio.sleep(LAUNCH_PAUSE_SECONDS)
    raise child.not_ready()


async def bring_up_together(children: Iterable[ManagedProcess]) -> None:
    """The first failure ends the other attempts, too: nothing is launched after this returns."""
    attempts = [asyncio.create_task(bring_up(child)) for child in children]
    try:
        await asyncio.gather(*attempts)
    finally:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


async def _serves_in_time(child: ManagedProcess) -> bool:
    deadline = time.monotonic() + child.ready_timeout_seconds
    while time.monotonic() < deadline:
        if await asyncio.to_thread(child.probe):
            return True
        if child.exit_code() is not None:
            return child.probe()  # a command that ran to its end in between
        await asyncio.sleep(WATCH_SECONDS)
    return False


async def keep_up(
    child: ManagedProcess,
    launched: Callable[[], None],
    report: Report,
    rapid_failures_max: int = RAPID_FAILURES_MAX,
) -> None:
    """Restart it whenever it ends, until cancelled; `launched` is called after each restart.

    RepeatedFailureError after `rapid_failures_max` lives in a row that were shorter than STABLE_SECONDS of service.
    """
    failures = 0
    while True:
        failures = 0 if await _outlive(child) else failures + 1
        reason = exit_reason(child.exit_code() or 0)
        if failures >= rapid_failures_max:
            raise RepeatedFailureError(
                f"{child.name} {reason}, for the {failures}th time right after its start, so the stack stops. "
                f"Its log, {child.log_path}, ends with:\n{child.tail()}"
            )
        report(f"{child.name} (pid {child.pid}) {reason}: starting it again")
        await asyncio.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)])
        await asyncio.to_thread(child.prepare)
        child.launch()
        launched()


async def _outlive(child: ManagedProcess) -> bool:
    """Wait for its end; whether it had served for STABLE_SECONDS."""
    serves_since: float | None = None
    probe_at = time.monotonic()
    while child.exit_code() is None:
        if serves_since is None and time.monotonic() >= probe_at:
            if await asyncio.to_thread(child.probe):
                serves_since = time.monotonic()
            probe_at = time.monotonic() + PROBE_SECONDS
        await asyncio.sleep(WATCH_SECONDS)
    return serves_since is not None and time.monotonic() - serves_since >= STABLE_SECONDS


async def follow(log_path: Path) -> None:
    """Copy what is appended to a log to standard error, until cancelled."""
    position = _copy_from(log_path, None)
    while True:
        position = _copy_from(log_path, position)
        await asyncio.sleep(FOLLOW_SECONDS)


def _copy_from(log_path: Path, position: int | None) -> int:
    """Copy what lies behind `position` (None = the end); the new position."""
    if not log_path.exists():
        return 0
    with log_path.open("rb") as log:
        size = log.seek(0, 2)
        if position is None:
            return size
        log.seek(position if position <= size else 0)  # a shorter log is a new one
        sys.stderr.write(log.read().decode(errors="replace"))
        sys.stderr.flush()
        return log.tell()
