"""Deliveries to webhooks: what is signed, what an answer means, and when an endpoint is given up.

Signatures, headers and the schedule of retries: https://github.com/standard-webhooks/standard-webhooks
"""

import base64
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from contracts.webhooks import DeliveryState, DisabledReason
from ledger_service.domain.webhook_schedule import RETRY_SECONDS, wait_seconds

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"

_GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. ``status`` None: nothing was answered, for ``error``. ``retry_after_seconds``: as asked
    for in the answer."""

    status: int | None
    error: str | None = None
    retry_after_seconds: float | None = None

    @property
    def is_success(self) -> bool:
        return self.error is None and self.status is not None and 200 <= self.status < 300


#: An account and an endpoint.
Lane: TypeAlias = tuple[str, UUID]


class Due(NamedTuple):
    """A lane that is due, and whose endpoint it goes to; ``owner`` empty: one for all accounts."""

    lane: Lane
    owner: str


@dataclass(frozen=True, slots=True)
class Policy:
    """How long an endpoint is tried: per delivery, and in all until it is disabled."""

    retry_seconds: tuple[float, ...] = RETRY_SECONDS
    disable_seconds: float = 5 * 86_400.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an answer. ``again_in_seconds`` None: it is not tried again by itself. ``disable``: nothing
    more is sent to the endpoint."""

    state: DeliveryState
    again_in_seconds: float | None = None
    disable: DisabledReason | None = None


def judge(
    answer: Answer, tries: int, failing_since: datetime | None, now: datetime, chance: float, policy: Policy
) -> Verdict:
    """``tries``: requests since it was queued, with this one. ``failing_since``: since when the endpoint took nothing,
    before this. ``chance``: from 0 until before 1.

    What is pending when an endpoint is disabled stays so: it goes on once that is enabled.
    """
    if answer.is_success:
        return Verdict(DeliveryState.DELIVERED)
    disable = None
    if answer.status == _GONE:
        disable = DisabledReason.GONE
    elif failing_since is not None and now - failing_since >= timedelta(seconds=policy.disable_seconds):
        disable = DisabledReason.FAILING
    if disable is not None:
        return Verdict(DeliveryState.PENDING, None, disable)
    wait = wait_seconds(tries, answer.retry_after_seconds, chance, policy.retry_seconds)
    return Verdict(DeliveryState.FAILED if wait is None else DeliveryState.PENDING, wait)


def signature(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header's value: one signature for each secret that is valid now."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, sha256)).decode() for secret in secrets)


def headers(secrets: Sequence[bytes], message_id: UUID, now: datetime, body: bytes) -> dict[str, str]:
    """What a delivery carries, sent at ``now``."""
    timestamp = int(now.timestamp())
    return {
        ID_HEADER: str(message_id),
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: signature(secrets, str(message_id), timestamp, body),
        "content-type": "application/json",
    }


@dataclass(frozen=True, slots=True)
class Shares:
    """What may be sent at once: in all, to one endpoint, to those of one account, and to those for all accounts.
    However slowly they answer, and however many they are, they leave room for others."""

    in_all: int
    per_endpoint: int = 4

    def of_owner(self, owner: str) -> int:
        return max(1, self.in_all // (8 if owner else 2))


def choose(
    due: Sequence[Due], of_endpoint: Mapping[UUID, int], of_owner: Mapping[str, int], shares: Shares
) -> list[Lane]:
    """Which lanes are taken, of those that are due, the longest first: as many as there is room for beside what is on
    its way, and of no endpoint or owner more than its share."""
    taken: list[Lane] = []
    endpoints, owners = Counter(of_endpoint), Counter(of_owner)
    room = shares.in_all - sum(owners.values())
    for one in due:
        if len(taken) >= room:
            break
        endpoint = one.lane[1]
        if endpoints[endpoint] < shares.per_endpoint and owners[one.owner] < shares.of_owner(one.owner):
            endpoints[endpoint] += 1
            owners[one.owner] += 1
            taken.append(one.lane)
    return taken
