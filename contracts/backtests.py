"""Backtests: what a proposed plan would have denied of the usage log, and what that would have saved."""

from datetime import UTC, date, datetime
from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from contracts.identifiers import Name
from contracts.limits import LIMITS_PER_PLAN_MAX, Limit, Plan
from contracts.money import TotalNanos
from contracts.problems import Problem
from contracts.windows import after_start

#: Users and accounts in a result: those with the most saved. How many there are in all stands beside them.
RANKED_MAX: Final = 1000

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


def refuse_credit(limit: Limit) -> Limit:
    """The limit. Raises PydanticCustomError for one that is filled up by credit grants."""
    if limit.credit:
        raise PydanticCustomError(
            "credit_unsupported", "limit {id} is filled up by credit grants, which no backtest replays",
            {"id": limit.limit_id},
        )  # fmt: skip
    return limit


def _without_credit(plan: Plan) -> Plan:
    for limit in plan.limits:
        refuse_credit(limit)
    return plan


def _as_plan(limits: list[Limit]) -> Plan:
    return Plan(name="proposal", limits=limits)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Backtest(_Body):
    """Replays what was admitted at ``from`` ≤ moment < ``to`` against ``plan``, the plan ``plan_id``, or ``limits``.

    ``account_id``: of one account, else of all. ``include_denied``: also replays what was denied at that time, as if it
    had then used what it asked for.
    """

    start: Annotated[AwareDatetime, Field(strict=True, alias="from")]
    end: Annotated[AwareDatetime, Field(strict=True, alias="to")]
    plan: Annotated[Plan, AfterValidator(_without_credit)] | None = None
    plan_id: Name | None = None
    limits: (
        Annotated[list[Annotated[Limit, AfterValidator(refuse_credit)]], Field(max_length=LIMITS_PER_PLAN_MAX)] | None
    ) = None
    account_id: Name | None = None
    include_denied: Annotated[bool, Field(strict=True)] = False

    @field_validator("start", "end")
    @classmethod
    def _within_the_ledgers_time(cls, moment: datetime) -> datetime:
        if not _EARLIEST <= moment <= _LATEST:
            raise PydanticCustomError("moment_range", "a moment is between 1970-01-01 and 9999-01-01")
        return moment.astimezone(UTC)

    _to_is_after_from = field_validator("end")(after_start)

    @field_validator("limits")
    @classmethod
    def _limits_could_be_a_plan(cls, limits: list[Limit] | None) -> list[Limit] | None:
        try:
            _as_plan(limits or [])
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            message = first["msg"].replace("{", "{{").replace("}", "}}")
            raise PydanticCustomError("limits_plan", message) from None
        return limits

    @model_validator(mode="after")
    def _has_one_proposal(self) -> Self:
        if sum(given is not None for given in (self.plan, self.plan_id, self.limits)) != 1:
            raise PydanticCustomError("one_proposal", "a backtest has exactly one of plan, plan_id and limits")
        return self

    @property
    def own_plan(self) -> Plan | None:
        """The proposal, where it stands in the request itself."""
        return _as_plan(self.limits) if self.limits is not None else self.plan


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeniedBy(_Answer):
    """What one limit would have denied: the first, in the plan's order, without room for it. ``limit_id`` is null where
    no limit was the reason, ``code`` says what was."""

    limit_id: str | None
    code: str
    would_deny: int
    units_saved: int
    cost_saved: TotalNanos


class DeniedThen(_Answer):
    """Of the operations that were denied at the time: those that the proposal allows, and what they asked for."""

    operations: int
    would_allow: int
    units_added: int
    cost_added: TotalNanos


class BacktestTotals(_Answer):
    """Finished operations, failed ones among them, and their cost as it was; then what would not have been."""

    operations: int
    cost: TotalNanos
    would_deny: int
    units_saved: int
    cost_saved: TotalNanos
    by_limit: list[DeniedBy]
    #: Null unless the request has include_denied.
    denied_then: DeniedThen | None = None


class BacktestDay(BacktestTotals):
    """A day of UTC, by when operations were admitted."""

    day: date


class BacktestUser(BacktestTotals):
    account_id: str
    user_id: str


class FirstDenial(_Answer):
    """The first operation of an account that would have been denied; ``at`` is when it was admitted."""

    operation_id: UUID
    user_id: str
    at: datetime
    limit_id: str | None
    code: str


class BacktestAccount(BacktestTotals):
    account_id: str
    first_denial: FirstDenial | None


class BacktestResult(_Answer):
    """``by_user`` and ``by_account`` begin with the most cost saved and have at most 1,000 entries each."""

    start: Annotated[datetime, Field(serialization_alias="from")]
    end: Annotated[datetime, Field(serialization_alias="to")]
    #: The stored plan that was proposed, if it was one.
    plan_id: str | None
    plan_version: int | None
    total: BacktestTotals
    by_day: list[BacktestDay]
    users: int
    users_denied: int
    by_user: list[BacktestUser]
    accounts: int
    accounts_denied: int
    by_account: list[BacktestAccount]


class BacktestProgress(_Answer):
    """Operations that were replayed, of how many (null until they are counted), and the account that is under way."""

    done: int
    of: int | None
    account_id: str | None


class BacktestLine(_Answer):
    """One line of the answer: ``progress`` any number of times, then once ``result``, or ``problem`` where it broke
    off."""

    progress: BacktestProgress | None = None
    result: BacktestResult | None = None
    problem: Problem | None = None

    def to_bytes(self) -> bytes:
        """The line as it is sent, with the one member that is set."""
        [name] = self.model_fields_set
        return self.model_dump_json(include={name}, by_alias=True).encode() + b"\n"
