"""Deliveries to webhooks: what is signed, what an answer means, and when an endpoint is given up.

Signatures, headers and the schedule of retries: https://github.com/standard-webhooks/standard-webhooks
"""

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
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


def choose(
    due: Sequence[tuple[str, UUID]], in_flight: Mapping[UUID, int], slots: int, per_endpoint_max: int
) -> list[tuple[str, UUID]]:
    """Which lanes (account, endpoint) are taken, of those that are due, the longest first: as many as there are slots,
    and of one endpoint no more than it may keep waiting."""
    taken: list[tuple[str, UUID]] = []
    busy = dict(in_flight)
    for lane in due:
        if len(taken) >= slots:
            break
        endpoint = lane[1]
        if busy.get(endpoint, 0) < per_endpoint_max:
            busy[endpoint] = busy.get(endpoint, 0) + 1
            taken.append(lane)
    return taken
