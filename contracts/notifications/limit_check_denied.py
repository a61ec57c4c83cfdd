"""A limit check was denied."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import model_validator

from contracts.notifications.kind import Audience, Data, Feed, Kind


class LimitCheckDenied(Data):
    """An operation, or a lease, was not admitted. ``GET /v1/decisions/{operation_id}`` explains it."""

    account_id: str
    operation_id: UUID
    user_id: str
    project_id: str | None = None
    api_key_id: str | None = None
    operation: str
    provider: str
    model: str
    quantity: int
    code: str
    message: str
    limit_id: str | None
    decided_at: datetime

    @model_validator(mode="before")
    @classmethod
    def _of_check_and_decision(cls, given: Any) -> Any:  # Any: whatever is to be read
        if not isinstance(given, Mapping) or "decision" not in given:
            return given
        decision = given["decision"]
        return {**given["check"], **decision["denial"], "decided_at": decision["decided_at"]}


KIND: Final = Kind("limit_check.denied", Feed.LOG, "ledger.check.denied.v1", Audience.ACCOUNT, LimitCheckDenied)
