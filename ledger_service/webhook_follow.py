"""From what happened to what is told: new facts become deliveries to webhooks, and messages on NATS; and again, from a
moment on."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog
from pydantic import ValidationError

from contracts.notifications.kind import Feed
from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from contracts.webhooks import REDELIVERED_MAX, Redelivered, Redelivery, WebhookStored
from ledger_service.domain.ledger_events import NO_ACCOUNT
from ledger_service.domain.notifications import (
    Fact,
    Notification,
    Place,
    asks_for,
    notifications_of,
    trial,
    wanted,
)
from ledger_service.store.deliveries import queue, queue_again, redeliver
from ledger_service.store.notifications import (
    BEGINNING,
    lock_cursor,
    move_cursor,
    read_cursors,
    read_facts,
    take_cursor,
)
from ledger_service.store.webhooks import list_subscriptions, lock_state, subscription_of

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

log = structlog.get_logger()

FOLLOWER: Final = "webhooks"
#: Facts of one transaction.
PORTION_FACTS: Final = 500
#: Facts of no use that are read again after a restart, at most.
PASSED_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Portion:
    """The next facts of a feed, and what is told of them. ``cursor``: where the follower was, as the database says."""

    cursor: Place
    facts: list[Fact]
    notifications: list[Notification]

    @property
    def end(self) -> Place:
        return self.facts[-1].place


class Follower:
    """Reads feeds from where it is. What was of no use is passed by in memory: the database hears of that now and then
    only, for each write would keep others' snapshots back. While no transaction ends, there is nothing to look for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._seen: dict[Feed, Place] = {}
        self._passed: Counter[Feed] = Counter()
        #: Up to these horizons there was nothing left.
        self._empty_until: dict[Feed, int] = {}

    async def read(self, connection: "Connection") -> dict[Feed, Portion]:
        """What is new, per feed; nothing of those without."""
        found = {}
        for feed, (cursor, horizon) in (await read_cursors(connection, self.name)).items():
            if self._empty_until.get(feed) == horizon:
                continue
            after = max(cursor, self._seen.get(feed, cursor))
            facts = await read_facts(connection, feed, after, PORTION_FACTS)
            if facts:
                found[feed] = Portion(cursor, facts, told(facts))
            else:
                self._empty_until[feed] = horizon
        return found

    def pass_by(self, feed: Feed, portion: Portion) -> bool:
        """Nothing of it was of use; whether it is time to say so to the database."""
        self._passed[feed] += len(portion.facts)
        if self._passed[feed] >= PASSED_MAX:
            return True
        self._seen[feed] = portion.end
        return False

    def moved(self, feed: Feed) -> None:
        """The database knows how far it is."""
        self._passed[feed] = 0


async def follow_portion(connection: "Connection", follower: Follower) -> bool:
    """Queues what is new for the endpoints that want it; whether there may be more. Several processes may.

    What was read is queued and passed by in one transaction: nothing is lost, and nothing queued twice.
    """
    more = False
    for feed, portion in (await follower.read(connection)).items():
        # After the facts: an endpoint that was there before one of them is among them.
        pairs = wanted(await list_subscriptions(connection), portion.notifications) if portion.notifications else []
        if pairs or follower.pass_by(feed, portion):
            async with connection.transaction():
                if await lock_cursor(connection, follower.name, feed, portion.cursor):
                    await queue(connection, pairs)
                    await move_cursor(connection, follower.name, feed, portion.end)
                    follower.moved(feed)
        more = more or len(portion.facts) == PORTION_FACTS
    return more


async def catch_up(connection: "Connection") -> None:
    """Does what is left for follow_portion, and lets the database know. Followers remember by themselves what was of no
    use, and until one of them says so it looks as if it still came."""
    for feed in Feed:
        for _ in range(REDELIVERED_MAX // PORTION_FACTS + 1):
            async with connection.transaction():
                after = await take_cursor(connection, FOLLOWER, feed)
                facts = await read_facts(connection, feed, after, PORTION_FACTS)
                if facts:
                    await queue(connection, wanted(await list_subscriptions(connection), told(facts)))
                    await move_cursor(connection, FOLLOWER, feed, facts[-1].place)
            if len(facts) < PORTION_FACTS:
                break


def told(facts: Iterable[Fact]) -> list[Notification]:
    """What facts are told as. One that cannot be told (an event of another version) holds up no other."""
    found: list[Notification] = []
    for fact in facts:
        try:
            found += notifications_of(fact)
        except ValidationError as error:
            log.error("fact_not_told", event=fact.event, name=fact.name, errors=error.error_count())
    return found


async def redeliver_from(connection: "Connection", webhook: WebhookStored, request: Redelivery) -> Redelivered:
    """Queues again for an endpoint what was recorded from a moment on: looks at REDELIVERED_MAX facts at most.

    What is new comes by itself, and is left to that. Raises ProblemError for a cursor of nobody's.
    """
    subscription = subscription_of(webhook)
    await catch_up(connection)
    ends = await read_cursors(connection, FOLLOWER)
    feed, after = _from_cursor(request.cursor)
    queued, looked_at = 0, 0
    feeds = list(Feed)
    for one in feeds[feeds.index(feed) :]:
        place = after if one is feed else BEGINNING
        while looked_at < REDELIVERED_MAX:
            facts = await read_facts(connection, one, place, PORTION_FACTS)
            known = [fact for fact in facts if fact.place <= ends[one].place]
            if known:
                place = known[-1].place
            looked_at += len(known)
            recent = [fact for fact in known if fact.recorded_at >= request.start]
            pairs = [
                (subscription, notification) for notification in told(recent) if asks_for(subscription, notification)
            ]
            async with connection.transaction():
                await lock_state(connection, webhook.account_id or NO_ACCOUNT, webhook.endpoint_id)
                queued += await queue_again(connection, pairs, delivered=request.delivered)
            if len(known) < PORTION_FACTS:
                break
        else:
            cursor = f"{one.value}.{place.transaction_id}.{place.position}"
            return Redelivered(queued=queued, next_cursor=cursor)
    return Redelivered(queued=queued, next_cursor=None)


async def redeliver_some(connection: "Connection", webhook: WebhookStored, message_ids: Sequence[UUID]) -> None:
    """Queues deliveries again, whatever became of them; all or none. Raises ProblemError (not_found)."""
    async with connection.transaction():
        await lock_state(connection, webhook.account_id or NO_ACCOUNT, webhook.endpoint_id)
        for message_id in message_ids:
            if not await redeliver(connection, webhook.endpoint_id, message_id):
                raise no_delivery(message_id)


def no_delivery(message_id: UUID) -> ProblemError:
    return ProblemError(NOT_FOUND, f"there is no delivery {message_id}, or it is longer ago than deliveries are kept")


async def send_trial(connection: "Connection", webhook: WebhookStored, message_id: UUID) -> None:
    """Queues a delivery of the type webhook.test."""
    subscription = subscription_of(webhook)
    notification = trial(message_id, webhook.account_id or NO_ACCOUNT, webhook.webhook_id, datetime.now(UTC))
    async with connection.transaction():
        await queue(connection, [(subscription, notification)])


def _from_cursor(cursor: str | None) -> tuple[Feed, Place]:
    if cursor is None:
        return Feed.LOG, BEGINNING
    name, transaction_id, position = cursor.split(".")
    if name not in set(Feed) or int(transaction_id) >= 2**64 or int(position) >= 2**63:
        raise broken_rule("cursor", "cursor", "not a cursor of an earlier answer")
    return Feed(name), Place(int(transaction_id), int(position))
