"""Publishes what is told on NATS: the same payloads as webhooks get, in the order in which they happened.

Several processes may do so at once: JetStream takes each message once, by its id, and one of them passes it by.
"""

import asyncio
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client

from contracts.subjects import ACCOUNT_HEADER, MSG_ID_HEADER, NOTIFICATIONS_STREAM, notification_subject
from ledger_service.domain.notifications import Notification
from ledger_service.store.notifications import move_cursor
from ledger_service.store.pool import TRANSIENT, Pool
from ledger_service.webhook_follow import PORTION_FACTS, Follower

log = structlog.get_logger()

FOLLOWER: Final = "nats"
ANSWER_SECONDS_MAX: Final = 5.0
#: While it cannot be published: the stream is missing, or NATS is away.
RETRY_SECONDS: Final = 5.0
_WAITED_OUT: Final[tuple[type[Exception], ...]] = (*TRANSIENT, nats.errors.Error)


class Announcer:
    """Any number of processes may run one each."""

    def __init__(self, pool: Pool, connection: Client) -> None:
        self._pool = pool
        self._jetstream = connection.jetstream(timeout=ANSWER_SECONDS_MAX)
        self._follower = Follower(FOLLOWER)

    async def run(self, interval_seconds: float) -> None:
        """Until cancelled."""
        while True:
            wait = interval_seconds
            try:
                if await self.announce_portion():
                    wait = 0
            except _WAITED_OUT as error:
                log.warning("notifications_not_published", error=str(error) or type(error).__name__)
                wait = RETRY_SECONDS
            await asyncio.sleep(wait)

    async def announce_portion(self) -> bool:
        """Publishes what is new, and passes it by once the stream has it; whether there may be more."""
        async with self._pool.acquire() as connection:
            found = await self._follower.read(connection)
        for feed, portion in found.items():
            for one in portion.notifications:
                await self._publish(one)
            if portion.notifications or self._follower.pass_by(feed, portion):
                async with self._pool.acquire() as connection:
                    await move_cursor(connection, FOLLOWER, feed, portion.end)
                self._follower.moved(feed)
        return any(len(portion.facts) == PORTION_FACTS for portion in found.values())

    async def _publish(self, one: Notification) -> None:
        headers = {MSG_ID_HEADER: str(one.message_id)}
        if one.account_id:
            headers[ACCOUNT_HEADER] = one.account_id
        subject = notification_subject(one.type)
        await self._jetstream.publish(subject, one.body, stream=NOTIFICATIONS_STREAM, headers=headers)
