"""What is told, to whom: facts of a feed → notifications → endpoints that want them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from contracts.identifiers import hashed_uuid7
from contracts.notifications import KINDS, TEST_TYPE
from contracts.notifications.kind import Audience, Feed, Kind
from ledger_service.domain.ledger_events import NO_ACCOUNT

_KINDS: Final[Mapping[tuple[Feed, str], tuple[Kind, ...]]] = {
    (kind.feed, kind.event): tuple(one for one in KINDS if (one.feed, one.event) == (kind.feed, kind.event))
    for kind in KINDS
}


class Place(NamedTuple):
    """Where a fact stands in its feed: in the order in which facts were committed."""

    transaction_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Fact:
    """A row of a feed. ``name`` tells it from all others of its feed, for ever; of the log it is the event's id."""

    feed: Feed
    place: Place
    event: str
    name: str
    account_id: str
    occurred_at: datetime
    recorded_at: datetime
    data: Mapping[str, Any]  # what the fact says: of the log the event's data


@dataclass(frozen=True, slots=True)
class Notification:
    """``account_id`` is empty where it is about none, or all. ``body``: the payload, byte for byte as it is signed."""

    message_id: UUID
    type: str
    audience: Audience
    account_id: str
    occurred_at: datetime
    recorded_at: datetime
    body: bytes


@dataclass(frozen=True, slots=True)
class Subscription:
    """What decides on whether an endpoint wants something. ``account_id`` empty: it is for all accounts."""

    endpoint_id: UUID
    account_id: str
    types: frozenset[str]
    since: datetime
    enabled: bool


def notifications_of(fact: Fact) -> list[Notification]:
    """What a fact is told as; nothing, mostly. The same fact always gives the same bytes.

    Raises pydantic.ValidationError for one that says not what its kind needs.
    """
    return [_notification(fact, kind) for kind in _KINDS.get((fact.feed, fact.event), ())]


def _notification(fact: Fact, kind: Kind) -> Notification:
    data = kind.data.model_validate(fact.data).model_dump(mode="json")
    return Notification(
        message_id_of(fact, kind), kind.name, kind.audience, fact.account_id, fact.occurred_at, fact.recorded_at,
        payload(kind.name, fact.occurred_at, data),
    )  # fmt: skip


def message_id_of(fact: Fact, kind: Kind) -> UUID:
    """The same for the same fact and kind, in whichever process and however often."""
    content = f"{kind.name} {fact.feed} {fact.name}".encode()
    return hashed_uuid7(int(fact.occurred_at.timestamp() * 1000), content)


def payload(kind: str, timestamp: datetime, data: Mapping[str, object]) -> bytes:
    """As the specification recommends it: ``{"type", "timestamp", "data"}``."""
    return orjson.dumps({"type": kind, "timestamp": timestamp.astimezone(UTC), "data": data}, option=orjson.OPT_UTC_Z)


def trial(message_id: UUID, account_id: str, webhook_id: str, now: datetime) -> Notification:
    """What an endpoint is sent to see whether it is there."""
    data = {"account_id": account_id or None, "webhook_id": webhook_id}
    body = payload(TEST_TYPE, now, data)
    return Notification(message_id, TEST_TYPE, Audience.ACCOUNT, account_id, now, now, body)


def may_subscribe(kind: Kind, account_id: str) -> bool:
    """Whether an endpoint of this account (empty: for all) can have this kind at all."""
    return not account_id or kind.audience is not Audience.OPERATORS


def wants(subscription: Subscription, notification: Notification) -> bool:
    """Whether it is sent there by itself."""
    return (
        subscription.enabled and notification.recorded_at >= subscription.since and asks_for(subscription, notification)
    )


def asks_for(subscription: Subscription, notification: Notification) -> bool:
    """The same whenever it was recorded: what can be sent there again."""
    if notification.type not in subscription.types:
        return False
    if not subscription.account_id or subscription.account_id == notification.account_id:
        return True
    return notification.audience is Audience.ACCOUNTS and notification.account_id == NO_ACCOUNT


def lane_of(subscription: Subscription, notification: Notification) -> str:
    """Within which account's turn it is sent there."""
    return subscription.account_id or notification.account_id


def wanted(
    subscriptions: Sequence[Subscription], notifications: Sequence[Notification]
) -> list[tuple[Subscription, Notification]]:
    """Which go where, in the order of the notifications."""
    return [(to, one) for one in notifications for to in subscriptions if wants(to, one)]
