"""Webhooks: where notifications are sent to, how that goes, and each delivery. https://www.standardwebhooks.com"""

import base64
import binascii
import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from contracts.identifiers import Name
from contracts.moments import Moment
from contracts.notifications import BY_NAME, KINDS

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  what secrets begin with
#: As the specification has it.
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
SECRET_BYTES: Final = 32
#: Of one account, or of those for all.
WEBHOOKS_MAX: Final = 50
#: Signatures in one header.
SECRETS_MAX: Final = 3
OVERLAP_SECONDS_DEFAULT: Final = 86_400
OVERLAP_SECONDS_MAX: Final = 31 * 86_400
URL_LENGTH_MAX: Final = 2_048
#: Facts that one request to send again looks at.
REDELIVERED_MAX: Final = 10_000
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def _is_secret(given: SecretStr) -> SecretStr:
    text = given.get_secret_value()
    encoded = text.removeprefix(SECRET_PREFIX)
    if encoded == text or not _BASE64.fullmatch(encoded):
        raise ValueError("whsec_ and the secret in Base64")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("whsec_ and the secret in Base64") from None
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ValueError(f"a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")
    return given


def _is_type(given: str) -> str:
    if given not in BY_NAME:
        raise PydanticCustomError("enum", "one of {types}", {"types": ", ".join(BY_NAME)})
    return given


def secret_bytes(given: SecretStr) -> bytes:
    """What the signatures are made with."""
    return base64.b64decode(given.get_secret_value().removeprefix(SECRET_PREFIX))


def secret_text(secret: bytes) -> str:
    """As its holder has it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


Secret = Annotated[SecretStr, AfterValidator(_is_secret)]
#: What can be subscribed to: the types of contracts.notifications.
NotificationType = Annotated[
    str, AfterValidator(_is_type), WithJsonSchema({"type": "string", "enum": [kind.name for kind in KINDS]})
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Webhook(_Body):
    """``types``: which notifications it gets. ``secret`` (``whsec_…``): what they are signed with, where it is not to
    be made by the ledger; only of a new one."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=URL_LENGTH_MAX, pattern=r"^[\x21-\x7e]+$")]
    types: Annotated[list[NotificationType], Field(min_length=1, max_length=len(KINDS))]
    description: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""
    secret: Secret | None = None


class DisabledReason(StrEnum):
    """``gone``: it answered 410. ``failing``: it took nothing for as long as LEDGER_WEBHOOK_DISABLE_SECONDS says.
    ``paused``: somebody has paused it; what happens meanwhile is queued, and sent once it is resumed."""

    GONE = "gone"
    FAILING = "failing"
    PAUSED = "paused"


class WebhookStored(BaseModel):
    """An endpoint as it was put. ``account_id`` null: for all accounts. ``since``: what was recorded before is not sent
    by itself. While it is disabled nothing is sent; to put it again enables it, unless it is paused: that ends with
    ``:resume`` alone."""

    account_id: str | None
    webhook_id: Name
    endpoint_id: UUID
    url: str
    types: list[str]
    description: str
    version: int
    since: datetime
    disabled_at: datetime | None = None
    disabled_reason: DisabledReason | None = None

    @property
    def is_paused(self) -> bool:
        return self.disabled_reason is DisabledReason.PAUSED

    @property
    def is_told(self) -> bool:
        """Whether what happens is queued for it, to be sent now or once it is resumed."""
        return self.disabled_at is None or self.is_paused


class WebhookState(BaseModel):
    """How it goes. ``failing_since``: nothing was delivered since; null: it works. ``pending``: what is to be sent."""

    pending: int
    failing_since: datetime | None
    last_delivered_at: datetime | None
    last_failed_at: datetime | None
    last_error: str | None


class WebhookSeen(WebhookStored):
    """An endpoint, and how it goes."""

    state: WebhookState


class WebhookPut(WebhookStored):
    """The endpoint; ``secret`` where the ledger has just made it: it is shown only now."""

    secret: str | None = None


class Webhooks(BaseModel):
    """Those for all accounts, or those of one, by their names."""

    items: list[WebhookSeen]


class SecretRotation(_Body):
    """Another secret; for ``overlap_seconds`` deliveries are signed with the one before it, too."""

    secret: Secret | None = None
    overlap_seconds: Annotated[int, Field(strict=True, ge=0, le=OVERLAP_SECONDS_MAX)] = OVERLAP_SECONDS_DEFAULT


class SecretRotated(BaseModel):
    """``secret`` where the ledger made it: it is shown only now."""

    account_id: str | None
    webhook_id: str
    endpoint_id: UUID
    previous_until: datetime
    secret: str | None = None


class DeliveryState(StrEnum):
    """``pending``: it is to be sent. ``failed``: it was tried as often as it is tried, and others went on."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryItem(BaseModel):
    """One notification to one endpoint. ``message_id`` is the header ``webhook-id``, the same however often it is sent.
    ``account_id`` null: it is about none, or about all."""

    message_id: UUID
    account_id: str | None
    type: str
    occurred_at: datetime
    state: DeliveryState
    attempts: int
    queued_at: datetime
    #: Of what is next in its account's turn; null where others are before it, or nothing is to be sent.
    next_attempt_at: datetime | None
    finished_at: datetime | None


class DeliveryPage(BaseModel):
    """Newest first; ``next_cursor`` goes on where the page ended."""

    items: list[DeliveryItem]
    next_cursor: str | None


class Attempt(BaseModel):
    """One request. ``error``: why it is none that arrived; ``answer``: the first bytes of what was answered."""

    attempt: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    answer: str


class Delivery(DeliveryItem):
    """A delivery with its payload and all its attempts, the newest first."""

    payload: str
    tries: list[Attempt]


class Redelivery(_Body):
    """What was recorded at ``from`` or later: what failed or was never sent, and with ``delivered`` all of it.
    ``cursor``: goes on where an earlier request ended."""

    start: Annotated[Moment, Field(alias="from")]
    delivered: Annotated[bool, Field(strict=True)] = False
    cursor: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}(\.[0-9]{1,20}){2}$")] | None = None


class Redelivered(BaseModel):
    """How many are to be sent now; ``next_cursor`` where there is more to look at."""

    queued: int
    next_cursor: str | None
