"""Tokens of leases: what was leased, signed by the ledger. Its holder can prove it, and nobody can make one up."""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.money import TotalNanos


class LeaseToken(BaseModel):
    """What a token says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease_id: UUID
    account_id: str
    user_id: str
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    calls: int
    quantity: int
    estimated_cost: TotalNanos
    expires_at: datetime


def sign(token: LeaseToken, key: bytes) -> str:
    """The payload and its HMAC-SHA256, both base64url, with a dot between. Of one token always the same text."""
    payload = _encode(token.model_dump_json().encode())
    return f"{payload}.{_encode(_signature(payload, key))}"


def verify(text: str, key: bytes) -> LeaseToken | None:
    """What the token says; None where it is none that this key signed."""
    payload, _, signature = text.partition(".")
    try:
        if not hmac.compare_digest(_decode(signature), _signature(payload, key)):
            return None
        return LeaseToken.model_validate_json(_decode(payload))
    except (ValueError, binascii.Error, ValidationError):
        return None


def _signature(payload: str, key: bytes) -> bytes:
    return hmac.digest(key, payload.encode(), sha256)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
