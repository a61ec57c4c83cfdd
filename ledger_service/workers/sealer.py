"""Seals the log behind its writers, and publishes the checkpoints."""

import asyncio
from collections.abc import Callable
from typing import Final

import nats.errors
import structlog

from ledger_service.seal_publishing import CheckpointFile, CheckpointStream
from ledger_service.sealing import Sealing, SealsDivergedError
from ledger_service.store.pool import TRANSIENT, Pool

log = structlog.get_logger()

_WAITED_OUT: Final[tuple[type[Exception], ...]] = (*TRANSIENT, nats.errors.Error)


class Sealer:
    """Any number of processes may run one each: one seals at a time, and each publishes what is not published."""

    def __init__(
        self,
        pool: Pool,
        sealing: Sealing,
        stream: CheckpointStream,
        file: CheckpointFile | None,
        on_diverged: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """``on_diverged`` is told after each interval that could find out."""
        self._pool, self._on_diverged = pool, on_diverged
        self._sealing = sealing
        self._places: list[CheckpointFile | CheckpointStream] = [stream] if file is None else [stream, file]

    async def run(self, interval_seconds: float) -> None:
        """Until cancelled: seals what is new, each interval, in as many portions as it takes."""
        while True:
            try:
                while await self.seal_and_publish() == self._sealing.leaves_max:
                    pass
                self._on_diverged(False)
            except SealsDivergedError as error:
                self._on_diverged(True)
                log.error("seals_diverged", error=str(error))
            except _WAITED_OUT as error:
                log.warning("sealing_waits", error=str(error) or type(error).__name__)
            await asyncio.sleep(interval_seconds)

    async def seal_and_publish(self) -> int:
        """One seal at most; answers its rows. What was sealed and not published, before a crash, is published too."""
        async with self._pool.acquire() as connection:
            heads = [await place.head() for place in self._places]
            await self._sealing.must_go_on_from(connection, [head for head in heads if head is not None])
            sealed = await self._sealing.seal(connection)
            for place, head in zip(self._places, heads, strict=True):
                await place.follow(connection, head)
        return sealed
