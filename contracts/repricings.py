"""Repricing: operations rated again by the price catalogue as it is now; what that changes, and then the change."""

from datetime import date
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contracts.adjustments import Reason
from contracts.identifiers import Id, ModelName, Name, OperationType
from contracts.moments import Moment
from contracts.money import TotalNanos
from contracts.problems import Problem
from contracts.windows import after_start

#: Accounts and models in a result: those with the largest differences.
RANKED_MAX: Final = 1000


class Repricing(BaseModel):
    """Rates again what was completed and admitted at ``from`` ≤ moment < ``to``, by the price in force at that moment.

    ``repricing_id`` is made by the caller: the same one again goes on where the first ended, and adds nothing twice.
    ``dry_run`` (the default) changes nothing and needs no id that was not used before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repricing_id: Id
    start: Annotated[Moment, Field(strict=True, alias="from")]
    end: Annotated[Moment, Field(strict=True, alias="to")]
    reason: Reason
    account_id: Name | None = None
    operation: OperationType | None = None
    provider: Name | None = None
    model: ModelName | None = None
    dry_run: Annotated[bool, Field(strict=True)] = True

    _to_is_after_from = field_validator("end")(after_start)


class Difference(BaseModel):
    """Operations whose cost changes: what they come to before and after."""

    operations: int
    before: TotalNanos
    after: TotalNanos
    difference: TotalNanos


class AccountDifference(Difference):
    account_id: str


class ModelDifference(Difference):
    provider: str
    operation: str
    model: str


class DayDifference(Difference):
    """``day``: in UTC, of admission."""

    day: date


class RepricingResult(BaseModel):
    """``total`` and the rest are of operations whose cost changes, in a dry run those that would.

    ``unchanged``: cost what the price says already. Left as they are: ``voided``; ``unpriced``, for which no price or
    no variant is in force; ``ambiguous``, of which nothing says by which of several prices. ``earlier``: rated again by
    this repricing before.
    """

    repricing_id: UUID
    applied: bool
    looked_at: int
    total: Difference
    unchanged: int
    voided: int
    unpriced: int
    ambiguous: int
    earlier: int
    by_account: list[AccountDifference]
    by_model: list[ModelDifference]
    by_day: list[DayDifference]


class RepricingProgress(BaseModel):
    """``of`` is null while it is being counted."""

    done: int
    of: int | None
    account_id: str | None


class RepricingLine(BaseModel):
    """One line of the answer: any number of times progress, then either the result or a problem."""

    progress: RepricingProgress | None = None
    result: RepricingResult | None = None
    problem: Problem | None = None

    def to_bytes(self) -> bytes:
        return self.model_dump_json(exclude_none=False, include=self.model_fields_set).encode() + b"\n"
