"""Named points of the services at which a process can be made to kill itself, by wrapping functions from outside.

The code under test is what is shipped: tests.faults.child imports it, wraps the functions named here, and runs it. A
function that is no longer there fails the start of the child, so that no point is lost silently.

A point is armed by a file that is called like the service and says ``NAME PASSES``: kill -9 at that pass. The file is
gone when it was reached.
"""

import asyncio
import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_INGEST: Final = "ledger_service.ingest:Ingest"
_CHECKS: Final = "ledger_service.limit_checks:LimitChecks"


@dataclass(frozen=True)
class Point:
    """``before``: as soon as the function is called; else when it has returned, with anything but an empty list."""

    name: str
    function: str  # module:attribute
    before: bool = False


POINTS: Final[dict[str, tuple[Point, ...]]] = {
    "ledger": (
        Point("before-commit-of-check", f"{_CHECKS}._decide_in_transaction"),
        Point("after-commit-of-check", f"{_CHECKS}._decide_retrying"),
        Point("before-commit-of-events", "ledger_service.recording:_record_in_transaction"),
        Point("after-commit-of-events", "ledger_service.recording:_record_retrying"),
        Point("before-ack", f"{_INGEST}._acknowledge", before=True),
        Point("after-ack", f"{_INGEST}._acknowledge"),
        Point("before-confirmation", f"{_INGEST}.confirm", before=True),
        Point("after-confirmation", f"{_INGEST}.confirm"),
        Point("before-commit-of-expiry", "ledger_service.workers.expiry:close_holds"),
        Point("after-commit-of-expiry", "ledger_service.workers.expiry:expire_portion"),
    ),
    "image": (
        Point("before-limit-check", "contracts.client.checks:Checks.check", before=True),
        Point("after-limit-check", "contracts.client.checks:Checks.check"),
        Point("before-commit-of-journal", "contracts.client.group_commit:GroupCommit._run"),
        Point("after-commit-of-journal", "contracts.client.group_commit:GroupCommit._commit"),
        Point("before-provider-call", "image_service.providers.local:LocalProvider._work", before=True),
        Point("after-provider-call", "image_service.providers.local:LocalProvider._work"),
        Point("before-publish", "contracts.client.jetstream:publish", before=True),
        Point("after-publish", "contracts.client.jetstream:publish"),
        Point("before-confirmed", "contracts.client.journal:Journal.confirm", before=True),
        Point("after-confirmed", "contracts.client.journal:Journal.confirm"),
    ),
}


class Trap:
    """In the child: kills this process when the armed point has been passed as often as the file says."""

    def __init__(self, armed: Path) -> None:
        self._armed = str(armed)
        self._passed: dict[str, int] = {}
        #: Of the service, once it has passed a point.
        self.loop: asyncio.AbstractEventLoop | None = None

    def passing(self, name: str) -> None:
        try:
            with open(self._armed) as file:  # noqa: PTH123 - a tenth of the time, at every pass
                wanted, _, passes = file.read().partition(" ")
        except FileNotFoundError:
            self._passed.clear()
            return
        if wanted != name:
            return
        self._passed[name] = self._passed.get(name, 0) + 1
        if self._passed[name] >= int(passes):
            os.unlink(self._armed)  # noqa: PTH108 - as above
            os.kill(os.getpid(), signal.SIGKILL)


def set_traps(service: str, trap: Trap) -> None:
    """Wraps every function of the service's POINTS. AttributeError where one is not there any more."""
    for point in POINTS[service]:
        module, _, path = point.function.partition(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, name, _wrapped(getattr(owner, name), point, trap))


def _wrapped(function: Callable[..., Any], point: Point, trap: Trap) -> Callable[..., Any]:
    def leave(result: object) -> None:
        if not point.before and result != []:
            trap.passing(point.name)

    @functools.wraps(function)
    async def later(*args: Any, **kwargs: Any) -> Any:  # whatever the function takes
        trap.loop = asyncio.get_running_loop()
        if point.before:
            trap.passing(point.name)
        result = await function(*args, **kwargs)
        leave(result)
        return result

    @functools.wraps(function)
    def at_once(*args: Any, **kwargs: Any) -> Any:  # as above
        if point.before:
            trap.passing(point.name)
        result = function(*args, **kwargs)
        leave(result)
        return result

    return later if inspect.iscoroutinefunction(function) else at_once
