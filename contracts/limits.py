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

from contracts.events import QUANTITY_MAX
from contracts.identifiers import Id, ModelName, Name, OperationType
from contracts.money import MAXIMUM_NANOS_MAX, CostNanos, format_nanos, parse_nanos
from contracts.operations import OPERATION_TYPES

TTL_SECONDS_DEFAULT: Final = 300
TTL_SECONDS_MAX: Final = 86_400
LIMITS_PER_PLAN_MAX: Final = 100
COUNT_MAX: Final = 10**15
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
    """One limit of a plan. ``maximum`` is a whole number, for the meter ``cost`` a decimal string; 0 = not allowed."""

    limit_id: Name
    meter: Meter
    scope: Scope = Scope.ACCOUNT
    selector: Selector = Selector()
    window: Window
    maximum: Annotated[int | str, PlainValidator(_int_or_string), WithJsonSchema(_MAXIMUM_SCHEMA)]
    mode: Mode = Mode.HARD

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


class Plan(_Body):
    """A named, versioned set of limits. No limit means unlimited."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    limits: Annotated[list[Limit], Field(max_length=LIMITS_PER_PLAN_MAX)] = []

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


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    # These three mean something else on each machine.
    return frozenset(available_timezones() - {"localtime", "posixrules", "Factory"})


def _known_time_zone(name: str) -> str:
    if name not in _time_zones():
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
    """May this operation proceed? An allowed check holds its share of every limit until settled or expired."""

    operation_id: Id
    account_id: Name
    user_id: Name
    project_id: Name | None = None
    api_key_id: Name | None = None
    operation: OperationType
    provider: Name
    model: ModelName
    quantity: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX)] = 1
    estimated_cost: CostNanos | None = None
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=TTL_SECONDS_MAX)] | None = None
    dry_run: Annotated[bool, Field(strict=True)] = False


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
