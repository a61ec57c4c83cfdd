"""Credit grants: prepaid amounts that fill up a limit with ``credit``."""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from contracts.identifiers import Name
from contracts.limits import COUNT_MAX, Meter
from contracts.moments import Moment
from contracts.money import MAXIMUM_NANOS_MAX, format_nanos, parse_nanos
from contracts.validity import after_valid_from

GRANTS_PER_ACCOUNT_MAX: Final = 1000
PRIORITY_DEFAULT: Final = 100
PRIORITY_MAX: Final = 1000


def _whole_or_decimal(value: object) -> int | str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("amount_type", "an amount is a whole number, for the meter cost a decimal string")


def parse_amount(meter: Meter, amount: int | str, least: int) -> int:
    """An amount as the core counts it: calls, units or nano-dollars.

    Raises PydanticCustomError where it does not fit the meter, or is not within ``least`` and the largest maximum.
    """
    if meter is Meter.COST:
        nanos = parse_nanos(amount)
        if not least <= nanos <= MAXIMUM_NANOS_MAX:
            raise PydanticCustomError(
                "amount_range",
                "an amount is between {least} and 1000000000 dollars",
                {"least": format_nanos(least) if least else "0"},
            )
        return nanos
    if not isinstance(amount, int):
        raise PydanticCustomError("amount_integer", "an amount of calls or units is a whole number")
    if not least <= amount <= COUNT_MAX:
        raise PydanticCustomError("amount_range", "an amount is between {least} and 10^15", {"least": least})
    return amount


def format_amount(meter: Meter, amount: int) -> int | str:
    """The other way round: a decimal string for cost."""
    return format_nanos(amount) if meter is Meter.COST else amount


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


_Amount = Annotated[
    int | str,
    PlainValidator(_whole_or_decimal),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
]
# Strict, or Unix seconds would be taken too.
_Moment = Annotated[Moment, Field(strict=True), AfterValidator(_in_utc)]


class CreditGrant(BaseModel):
    """So much credit on one limit. ``amount`` is as a limit's maximum: a decimal string for cost, else whole.

    Grants are used up in the order of ``priority`` (lowest first), then by when what is left of them would be lost
    (soonest first), then of their beginnings. What is left at ``expires_at`` is lost. With ``renews``, the amount comes
    anew with each of the account's months or billing periods, and of what is left at the end of one, at most
    ``rollover_maximum`` is kept (null = nothing), until ``expires_at`` at the latest.

    Use beyond all grants is a debt that later grants pay first; but nothing is owed for the time before ``valid_from``
    of the limit's first grant. Changing a grant works from its beginning on, as if it had been so from the start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit_id: Name
    amount: _Amount
    priority: Annotated[int, Field(strict=True, ge=0, le=PRIORITY_MAX)] = PRIORITY_DEFAULT
    valid_from: _Moment
    expires_at: Annotated[_Moment | None, AfterValidator(after_valid_from)] = None
    renews: Literal["month", "billing_period"] | None = None
    rollover_maximum: _Amount | None = None
    reason: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""

    @field_validator("rollover_maximum")
    @classmethod
    def _only_what_renews_rolls_over(cls, maximum: int | str | None, info: ValidationInfo) -> int | str | None:
        if maximum is not None and "renews" in info.data and info.data["renews"] is None:
            raise PydanticCustomError("rollover", "only what is left of a grant that renews can roll over")
        return maximum


class CreditGrantStored(CreditGrant):
    """A grant as it stands. ``ended_at``: when it was ended before its time; what is left of it then is lost."""

    account_id: str
    grant_id: str
    version: int
    meter: Meter
    ended_at: datetime | None = None


class CreditGrantState(CreditGrantStored):
    """A grant, and what became of it: ``issued`` = ``used`` + ``remaining`` + ``lapsed``, renewals included.

    ``used`` counts what is held too. Null where the account has no credit limit by that id and meter now.
    """

    issued: int | str | None = None
    used: int | str | None = None
    remaining: int | str | None = None
    lapsed: int | str | None = None


class CreditGrants(BaseModel):
    """An account's grants, by id."""

    grants: list[CreditGrantState]
