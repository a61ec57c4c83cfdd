"""Holds whose answer was lost: given back for as long as it takes, or until they have ended by themselves."""

import asyncio
import time
from typing import Final
from uuid import UUID

import structlog

from contracts.client.background import Background
from contracts.client.checks import Checks
from contracts.client.errors import LedgerRefused, LedgerUnavailable

PAUSE_SECONDS_FIRST: Final = 0.5
PAUSE_SECONDS_MAX: Final = 30.0
#: Holds that are being given back at once; beyond that they are left to their end.
RELEASES_MAX: Final = 1000

_log = structlog.stdlib.get_logger(__name__)


class Releases:
    def __init__(self, checks: Checks, background: Background) -> None:
        self._checks = checks
        self._background = background
        self._running = 0

    def start(self, operation_id: UUID, account_id: str, hold_seconds: float) -> None:
        """Give the hold back in the background.

        A ledger that hangs may decide the check long after its caller has gone; no hold now does not mean none soon.
        """
        if self._running < RELEASES_MAX:
            self._running += 1
            self._background.start(self._release(operation_id, account_id, hold_seconds))

    async def _release(self, operation_id: UUID, account_id: str, hold_seconds: float) -> None:
        until = time.monotonic() + hold_seconds
        pause = PAUSE_SECONDS_FIRST
        try:
            while time.monotonic() < until:
                try:
                    if await self._checks.release(operation_id, account_id):
                        return
                except LedgerUnavailable as error:
                    _log.warning("hold_not_released", operation_id=str(operation_id), reason=error.reason)
                except LedgerRefused as refused:  # it is settled: nothing is held
                    _log.info("hold_closed", operation_id=str(operation_id), reason=refused.problem.code)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
        finally:
            self._running -= 1
