"""A row of ALwrity's api_usage_logs → the event that it is in the ledger."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from contracts.events import COMPLETED_V1, FAILED_V1, INT4_MAX, QUANTITY_MAX
from contracts.identifiers import NAME_PATTERN
from contracts.money import format_nanos
from ledger_service.domain.alwrity.operations import AGGREGATED, operation_of
from ledger_service.domain.alwrity.values import (
    BadValueError,
    Money,
    Row,
    count,
    derived_id,
    enum_value,
    milliseconds,
    model_of,
    moment,
    money,
    month,
    name_of,
    text,
)

TABLE: Final = "api_usage_logs"
#: Left out on purpose: user_agent and ip_address, which are about people and which nobody asks the ledger for.
COLUMNS: Final = (
    "id", "user_id", "provider", "endpoint", "method", "model_used", "actual_provider_name", "tokens_input",
    "tokens_output", "tokens_total", "cost_input", "cost_output", "cost_total", "response_time", "status_code",
    "request_size", "response_size", "error_message", "retry_count", "timestamp", "billing_period",
)  # fmt: skip
#: Without these a row says nothing.
NEEDED: Final = ("id", "user_id", "timestamp")
SOURCE: Final = "alwrity"
#: In the metadata of each event: the billing period that ALwrity counted the row in.
PERIOD_KEY: Final = "alwrity_period"

_NAME: Final = re.compile(NAME_PATTERN.removesuffix("$"))
_STANDS_FOR: Final = re.compile(r"Aggregated ([0-9]{1,9}) calls: ([0-9]{1,9}) success, ([0-9]{1,9}) failed")
_CALLS: Final = re.compile(r"\[([0-9]{1,9}) calls aggregated\]")


class Extra(NamedTuple):
    """What an aggregated row counts beyond the one call that its event is; an adjustment with this id says so."""

    adjustment_id: UUID
    calls: int
    failures: int
    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """A row as the ledger takes it. ``calls`` and ``failures``: what it stands for, one or the other unless it is
    aggregated; ``period``: ALwrity's billing period, which need not be the month of ``occurred_at``."""

    user_id: str
    account_id: str
    row_id: int
    provider: str
    period: str
    occurred_at: datetime
    event_id: UUID
    operation_id: UUID
    body: bytes
    calls: int
    failures: int
    cost_nanos: int
    tokens: int
    is_rounded: bool
    extra: Extra | None
    is_aggregated: bool

    @property
    def month(self) -> str:
        return f"{self.occurred_at:%Y-%m}"


@lru_cache(maxsize=1024)
def account_of(user_id: str, prefix: str) -> str:
    """One account per user. Raises BadValueError where the ledger takes no such name."""
    account_id = f"{prefix}{user_id}"
    if not _NAME.fullmatch(account_id) or not _NAME.fullmatch(user_id):
        raise BadValueError("user_id", "name", f"{user_id!r} is no name that the ledger takes ({NAME_PATTERN})")
    return account_id


def read_usage(row: Row, prefix: str, now: datetime) -> Usage:
    """Raises BadValueError, which names the column and the rule.

    The event's id follows from user, table, row and all that the row says; the operation's from what makes it that row:
    user, table, row and time. So a copy of the row adds nothing, and the same row with other content is a second
    outcome of one operation, which the ledger refuses.
    """
    user_id = str(row.get("user_id") or "")
    account_id = account_of(user_id, prefix)
    row_id, at = count(row, "id"), moment(row, "timestamp", now)
    period = month(row, "billing_period") if row.get("billing_period") is not None else f"{at:%Y-%m}"
    provider, endpoint = enum_value(row, "provider") or "unknown", text(row, "endpoint", 200) or ""
    model = text(row, "model_used", 200)
    actual = (text(row, "actual_provider_name", 50) or "").lower() or None
    status, duration_ms = count(row, "status_code", 999), milliseconds(row, "response_time")
    tokens_in, tokens_out = count(row, "tokens_input", 10**15), count(row, "tokens_output", 10**15)
    tokens = count(row, "tokens_total", 10**15) or tokens_in + tokens_out
    cost = _cost(row)
    error, operation = text(row, "error_message", 1024), operation_of(endpoint, provider, model)
    method, retries = text(row, "method", 10), count(row, "retry_count", INT4_MAX)
    request_bytes, response_bytes = count(row, "request_size"), count(row, "response_size")
    parts = (
        period, provider, endpoint, method, model, actual, tokens_in, tokens_out, tokens, cost.nanos, duration_ms,
        status, request_bytes, response_bytes, error, retries,
    )  # fmt: skip
    # Without a status (an old file) nothing says that it failed.
    is_success = 200 <= status < 300 or row.get("status_code") is None
    aggregated = operation == AGGREGATED
    calls, failures = _stands_for(model, error, is_success) if aggregated else (int(is_success), int(not is_success))
    event_id = derived_id(at, user_id, TABLE, row_id, at, *parts)
    operation_id = derived_id(at, "operation", user_id, TABLE, row_id, at)
    metadata = {
        PERIOD_KEY: period,
        "alwrity_row": row_id,
        "tokens_input": tokens_in,
        "tokens_output": tokens_out,
        "tokens_total": tokens,
        "method": method,
        "model_used": model if model is not None and model != model_of(model) else None,
        "said": error if calls else None,
    }
    quantity = calls or (failures if aggregated else 1)
    if quantity > QUANTITY_MAX:
        raise BadValueError("model_used", "too_many", f"one row for more than {QUANTITY_MAX} calls")
    data = {
        "operation_id": operation_id,
        "account_id": account_id,
        "user_id": user_id,
        "operation": operation,
        "provider": name_of(provider),
        "model": AGGREGATED if aggregated else model_of(model or "unknown"),
        "endpoint": endpoint,
        "metadata": {name: value for name, value in metadata.items() if value is not None},
        "quantity": quantity,
        "request_bytes": request_bytes,
        "cost": format_nanos(cost.nanos),
        "requested_at": _rfc3339(at - timedelta(milliseconds=duration_ms)),
        "duration_ms": duration_ms,
        "actual_provider": name_of(actual or provider),
        "status_code": status,
        "retry_count": retries,
        **(
            {"response_bytes": response_bytes}
            if calls
            else {"error": {"code": f"http_{status}", "message": error or f"ALwrity recorded status {status}"}}
        ),
    }
    body = {
        "specversion": "1.0",
        "id": event_id,
        "type": COMPLETED_V1 if calls else FAILED_V1,
        "source": SOURCE,
        "subject": account_id,
        "time": _rfc3339(at),
        "data": data,
    }
    return Usage(
        user_id, account_id, row_id, provider, period, at, event_id, operation_id, orjson.dumps(body), calls, failures,
        cost.nanos, tokens, cost.is_rounded, _extra(user_id, row_id, at, calls, failures, event_id), aggregated,
    )  # fmt: skip


def _cost(row: Row) -> Money:
    if row.get("cost_total") is not None:
        return money(row, "cost_total")
    # Older files have the two parts alone.
    first, second = money(row, "cost_input"), money(row, "cost_output")
    return Money(first.nanos + second.nanos, first.is_rounded or second.is_rounded)


def _stands_for(model: str | None, said: str | None, is_success: bool) -> tuple[int, int]:
    """(successful, failed) calls. The success count is ALwrity's own: any 2xx."""
    told, named = _STANDS_FOR.search(said or ""), _CALLS.search(model or "")
    if told:
        calls, succeeded, failed = (int(number) for number in told.groups())
        if succeeded + failed == calls and calls and (named is None or int(named[1]) == calls):
            return succeeded, failed
        raise BadValueError("error_message", "aggregated", "its numbers of calls do not agree with each other")
    if named and int(named[1]):
        return (int(named[1]), 0) if is_success else (0, int(named[1]))
    raise BadValueError("model_used", "aggregated", "an aggregated row that does not say how many calls it stands for")


def _extra(user_id: str, row_id: int, at: datetime, calls: int, failures: int, event_id: UUID) -> Extra | None:
    if calls + failures == 1:
        return None
    more = (calls - 1, failures) if calls else (0, failures - 1)
    reason = (
        f"ALwrity's row {row_id} of {TABLE} stands for {calls + failures} calls, {calls} of which succeeded and "
        f"{failures} failed; its cost and units are those of the operation"
    )
    return Extra(derived_id(at, "aggregated", user_id, TABLE, row_id, event_id), *more, reason)


def _rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
