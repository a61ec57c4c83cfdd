"""Adjustments: correcting events. What was recorded stays as it was; a correction stands beside it, and both count."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema

from contracts.identifiers import Id, ModelName, Name, OperationType
from contracts.moments import Moment
from contracts.money import COST_NANOS_MAX, MONEY_SCHEMA, TotalNanos, format_nanos, parse_bounded

#: Of calls, units and failures, either way.
ADJUSTED_MAX: Final = 10**9
#: What stands for operation, provider and model where an adjustment is about none of them.
NO_KIND: Final = "adjustment"

_Signed = Annotated[int, Field(strict=True, ge=-ADJUSTED_MAX, le=ADJUSTED_MAX)]
#: Nano-dollars in Python, a decimal string in JSON; may be negative.
_SignedNanos = Annotated[
    int,
    BeforeValidator(lambda text: parse_bounded(text, -COST_NANOS_MAX, COST_NANOS_MAX)),
    PlainSerializer(format_nanos, return_type=str, when_used="json"),
    WithJsonSchema(MONEY_SCHEMA),
]
Author = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


class AdjustmentKind(StrEnum):
    """``adjustment``: free amounts. ``void``: takes back all that something comes to. ``rerate``: another cost."""

    ADJUSTMENT = "adjustment"
    VOID = "void"
    RERATE = "rerate"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(_Body):
    """What an adjustment is about: an operation, or a free adjustment; exactly one of them."""

    operation_id: Id | None = None
    adjustment_id: Id | None = None


class Adjustment(_Body):
    """A correction. ``adjustment_id`` is made by the caller; an idempotent retry sends the same one.

    ``adjustment``: any of ``calls``, ``units``, ``failures`` and ``cost``, each of which may be negative, for whom and
    what the other fields say, at ``occurred_at`` (default: now); or with a ``reference``, for whom and what that was.
    ``void``: ``reference`` alone. ``rerate``: ``reference`` to an operation, and the ``cost`` that it shall have.
    """

    adjustment_id: Id
    account_id: Name
    kind: AdjustmentKind
    reason: Reason
    reference: Reference | None = None
    calls: _Signed | None = None
    units: _Signed | None = None
    failures: _Signed | None = None
    cost: _SignedNanos | None = None
    user_id: Name | None = None
    project_id: Name | None = None
    api_key_id: Name | None = None
    operation: OperationType | None = None
    provider: Name | None = None
    model: ModelName | None = None
    # Strict, or Unix seconds would be taken too.
    occurred_at: Annotated[Moment, Field(strict=True)] | None = None


class AppliedPrice(BaseModel):
    """The version of a price by which an operation was rated again."""

    version: int
    valid_from: datetime
    unit_price: TotalNanos


class AdjustmentStored(BaseModel):
    """An adjustment as the log has it: ``calls``, ``units``, ``failures`` and ``cost`` are what it adds.

    ``occurred_at`` and ``counted_at`` are those of what it corrects: limits count it in the same windows. Where it is
    about an operation, ``cost_before`` and ``cost_after`` are what that came to before and comes to since.
    """

    adjustment_id: UUID
    account_id: str
    kind: AdjustmentKind
    reason: str
    author: str
    reference: Reference | None
    corrects: UUID | None
    calls: int
    units: int
    failures: int
    cost: TotalNanos
    cost_before: TotalNanos | None
    cost_after: TotalNanos | None
    user_id: str | None
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    occurred_at: datetime
    counted_at: datetime
    #: The month (UTC) in whose totals it is: that of ``occurred_at``, or, where that is closed, the first open one.
    booked_period: str
    repricing_id: UUID | None = None
    price: AppliedPrice | None = None
