"""Plans, limits, accounts, limit checks and decisions: the bodies of the ledger's check and administration API."""

import re
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Annotated, Final, Self
from uuid import UUID
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from contracts.events import Quantity
from contracts.identifiers import Id, ModelName, Name, OperationType
from contracts.moments import Moment
from contracts.money import MAXIMUM_NANOS_MAX, CostNanos, TotalNanos, format_nanos, parse_nanos
from contracts.operations import OPERATION_TYPES
from contracts.prices import Attributes
from contracts.problems import Problem
from contracts.validity import after_valid_from

TTL_SECONDS_MAX: Final = 86_400
LIMITS_PER_PLAN_MAX: Final = 100
THRESHOLDS_MAX: Final = 10
FAIL_RULES_MAX: Final = 100
LEASE_CALLS_MAX: Final = 10_000
CHECKS_PER_BATCH_MAX: Final = 1000
COUNT_MAX: Final = 10**15
#: How long a hold lasts.
HoldSeconds = Annotated[int, Field(strict=True, ge=1, le=TTL_SECONDS_MAX)]
_ISO_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Meter(StrEnum):
    """What a limit counts: completed operations, their units, or dollars."""

    CALLS = "calls"
    UNITS = "units"
    COST = "cost"


class Scope(StrEnum):
    """On whom a limit is: the account as a whole, or each user, project or api key in it."""

    ACCOUNT = "account"
    PROJECT = "project"
    USER = "user"
    API_KEY = "api_key"


class Window(StrEnum):
    """Over which time a limit counts before it starts anew."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    BILLING_PERIOD = "billing_period"
    LIFETIME = "lifetime"


class Mode(StrEnum):
    """A hard limit denies; a soft one lets through and shows the overrun."""

    HARD = "hard"
    SOFT = "soft"


class FailMode(StrEnum):
    """What a service may do while it cannot reach the ledger: nothing, or use up a lease that it fetched before."""

    CLOSED = "closed"
    LEASE = "lease"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_operation(name: str) -> str:
    if name not in OPERATION_TYPES:
        raise PydanticCustomError(
            "unknown_operation", "unknown operation; known are {known}", {"known": ", ".join(OPERATION_TYPES)}
        )
    return name


class Selector(_Body):
    """Which operations a limit counts. An empty list selects all; the three lists must all match."""

    operation: list[Annotated[str, AfterValidator(_known_operation)]] = []
    provider: list[Name] = []
    model: list[ModelName] = []


def _int_or_string(value: object) -> int | str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("maximum_type", "a maximum is a whole number, for the meter cost a decimal string")


_MAXIMUM_SCHEMA: Final = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}


class Limit(_Body):
    """One limit of a plan. ``maximum`` is a whole number, for the meter ``cost`` a decimal string; 0 = not allowed.

    ``thresholds`` are percents of the maximum; reaching one raises one alert a window. A limit with ``credit`` starts
    at its maximum (usually 0) and is filled up by the account's credit grants that name it.
    """

    limit_id: Name
    meter: Meter
    scope: Scope = Scope.ACCOUNT
    selector: Selector = Selector()
    window: Window
    maximum: Annotated[int | str, PlainValidator(_int_or_string), WithJsonSchema(_MAXIMUM_SCHEMA)]
    mode: Mode = Mode.HARD
    thresholds: Annotated[
        list[Annotated[int, Field(strict=True, ge=1, le=1000)]], Field(max_length=THRESHOLDS_MAX)
    ] = []
    credit: Annotated[bool, Field(strict=True)] = False

    @field_validator("thresholds")
    @classmethod
    def _thresholds_rise(cls, thresholds: list[int]) -> list[int]:
        if thresholds != sorted(set(thresholds)):
            raise PydanticCustomError("thresholds_order", "thresholds rise, and none stands twice")
        return thresholds

    @field_validator("credit")
    @classmethod
    def _credit_is_for_an_account_for_ever(cls, credit: bool, info: ValidationInfo) -> bool:
        scope, window = info.data.get("scope"), info.data.get("window")
        if credit and (scope, window) != (Scope.ACCOUNT, Window.LIFETIME):
            raise PydanticCustomError("credit_scope", "a credit limit has the scope account and the window lifetime")
        return credit

    @field_validator("maximum")
    @classmethod
    def _maximum_fits_meter(cls, maximum: int | str, info: ValidationInfo) -> int | str:
        if info.data.get("meter") is Meter.COST:
            nanos = parse_nanos(maximum)
            if not 0 <= nanos <= MAXIMUM_NANOS_MAX:
                raise PydanticCustomError("maximum_range", "a cost maximum is between 0 and 1000000000 dollars")
            return format_nanos(nanos)
        if not isinstance(maximum, int):
            raise PydanticCustomError("maximum_integer", "a maximum of calls or units is a whole number")
        if not 0 <= maximum <= COUNT_MAX:
            raise PydanticCustomError("maximum_range", "a maximum is between 0 and 10^15")
        return maximum

    @cached_property
    def maximum_amount(self) -> int:
        """The maximum as the core counts it: calls, units or nano-dollars."""
        return self.maximum if isinstance(self.maximum, int) else parse_nanos(self.maximum)


class FailRule(_Body):
    """The fail mode of some callers: all of a scope, or those named in ``scope_ids``. ``lease`` is bounded by
    ``calls``, which a service may make under one lease, and ``ttl_seconds``, for which it may use it."""

    scope: Scope = Scope.ACCOUNT
    scope_ids: Annotated[list[Name], Field(max_length=1000)] = []
    mode: FailMode
    calls: Annotated[int, Field(strict=True, ge=1, le=LEASE_CALLS_MAX)] = 10
    ttl_seconds: HoldSeconds = 600


class Plan(_Body):
    """A named, versioned set of limits. No limit means unlimited.

    ``unpriced_unit_ceiling``: what a unit of a model without a price is held at; without it such a check is denied
    where a cost limit applies. ``fail_modes``: the first rule that fits a caller holds; none = ``closed``.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    limits: Annotated[list[Limit], Field(max_length=LIMITS_PER_PLAN_MAX)] = []
    unpriced_unit_ceiling: CostNanos | None = None
    fail_modes: Annotated[list[FailRule], Field(max_length=FAIL_RULES_MAX)] = []

    @model_validator(mode="after")
    def _limit_ids_are_unique(self) -> Self:
        seen: set[str] = set()
        for limit in self.limits:
            if limit.limit_id in seen:
                raise PydanticCustomError("limit_id_twice", "limit_id {id} stands twice", {"id": limit.limit_id})
            seen.add(limit.limit_id)
        return self


class PlanStored(Plan):
    plan_id: str
    version: int


class LimitOverride(_Body):
    """A limit for one account that adds to its plan or replaces the plan's limit with the same ``limit_id``.

    With ``scope_id`` it is for that one user, project or api key alone. It holds from ``valid_from`` (default: always)
    until ``valid_until`` (default: for ever). What is left out is taken from the plan's limit with that id.
    """

    limit_id: Name | None = None
    scope: Scope | None = None
    scope_id: Name | None = None
    meter: Meter | None = None
    selector: Selector | None = None
    window: Window | None = None
    maximum: Annotated[int | str, PlainValidator(_int_or_string), WithJsonSchema(_MAXIMUM_SCHEMA)]
    mode: Mode | None = None
    thresholds: list[Annotated[int, Field(strict=True)]] | None = None
    credit: Annotated[bool, Field(strict=True)] | None = None
    valid_from: Moment | None = None
    valid_until: Annotated[Moment | None, AfterValidator(after_valid_from)] = None
    #: Why, and on whose word.
    reason: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""


class LimitOverrideStored(_Body):
    """An override as it stands: complete, with the limit that it is."""

    account_id: str
    scope_id: str | None
    limit: Limit
    valid_from: datetime | None
    valid_until: datetime | None
    reason: str
    version: int


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    # These three mean something else on each machine.
    return frozenset(available_timezones() - {"localtime", "posixrules", "Factory"})


def is_time_zone(name: str) -> bool:
    """Whether it is the name of an IANA time zone."""
    return name in _time_zones()


def _known_time_zone(name: str) -> str:
    if not is_time_zone(name):
        raise PydanticCustomError("time_zone", "not an IANA time zone")
    return name


def _iso_date(value: object) -> object:
    # Unix numbers and date-times would be taken too.
    if isinstance(value, date) or (isinstance(value, str) and _ISO_DATE.fullmatch(value)):
        return value
    raise PydanticCustomError("date_iso", "not a date such as 2026-11-01")


class Account(_Body):
    """Who pays: the plan, and where its days, months and billing periods begin."""

    plan_id: Name
    time_zone: Annotated[str, StringConstraints(max_length=64), AfterValidator(_known_time_zone)] = "UTC"
    #: The day on which a billing period began; those after it begin on the same day of each month.
    billing_anchor: Annotated[date, Field(ge=date(2000, 1, 1), lt=date(2200, 1, 1)), BeforeValidator(_iso_date)] = date(
        2000, 1, 1
    )


class AccountStored(Account):
    account_id: str
    version: int


class LimitCheck(_Body):
    """May this operation proceed? An allowed check holds its share of every limit until settled or expired.

    Without ``estimated_cost`` it is held at the worst case that the price catalogue has for its ``attributes``.
    """

    operation_id: Id
    account_id: Name
    user_id: Name
    project_id: Name | None = None
    api_key_id: Name | None = None
    operation: OperationType
    provider: Name
    model: ModelName
    quantity: Quantity = 1
    estimated_cost: CostNanos | None = None
    attributes: Attributes | None = None
    ttl_seconds: HoldSeconds | None = None
    dry_run: Annotated[bool, Field(strict=True)] = False


class OverrideRef(_Body):
    """The override that a limit of a decision came from; its times bound when it holds."""

    scope_id: str | None
    version: int
    valid_from: datetime | None
    valid_until: datetime | None


class LimitState(_Body):
    """One limit as it stands after the decision. Amounts are whole numbers, for ``cost`` decimal strings."""

    limit_id: str
    scope: Scope
    meter: Meter
    window: Window
    period: str
    mode: Mode = Mode.HARD
    maximum: int | str
    settled: int | str
    held: int | str
    available: int | str
    override: OverrideRef | None = None


class PriceRef(_Body):
    """The price that a check without an estimate was held at."""

    version: int
    valid_from: datetime
    unit_price: TotalNanos


class LeaseOffer(_Body):
    """The plan lets this caller fetch a lease, for when the ledger cannot be reached."""

    calls: int
    ttl_seconds: int


class Reservation(_Body):
    expires_at: datetime


class Denial(_Body):
    code: str
    message: str
    limit_id: str | None


class Decision(_Body):
    operation_id: UUID
    allowed: bool
    reservation: Reservation | None
    denial: Denial | None
    limits: list[LimitState]
    decided_at: datetime
    #: The plan that was decided by; null where the account is on none.
    plan_id: str | None = None
    plan_version: int | None = None
    #: What was held as cost: the check's own estimate, or the worst case; null where nothing is known.
    estimated_cost: TotalNanos | None = None
    price: PriceRef | None = None
    lease: LeaseOffer | None = None


class LimitCheckBatch(BaseModel):
    """Up to 1,000 checks, each decided on its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checks: Annotated[list[LimitCheck], Field(min_length=1, max_length=CHECKS_PER_BATCH_MAX)]


class BatchResult(BaseModel):
    """One check's part of a batch's answer: its decision, or the problem with it."""

    decision: Decision | None = None
    problem: Problem | None = None


class LimitCheckBatchAnswer(BaseModel):
    """In the order of the checks."""

    results: list[BatchResult]
