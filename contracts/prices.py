"""The price catalogue: what a unit of a provider's model costs, by its attributes, from when on."""

import re
from datetime import date, datetime
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from contracts.events import Quantity
from contracts.identifiers import TYPE_PATTERN, ModelName, Name, OperationType
from contracts.moments import UtcMoment
from contracts.money import CostNanos, TotalNanos
from contracts.problems import field_path
from contracts.validity import after_valid_from

ATTRIBUTES_MAX: Final = 20
VARIANTS_MAX: Final = 200
CHOICES_MAX: Final = 100
ATTRIBUTE_NUMBER_MAX: Final = 10**9
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)

AttributeName = Annotated[str, StringConstraints(pattern=TYPE_PATTERN)]
_Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$")]
_Number = Annotated[int, Field(strict=True, ge=0, le=ATTRIBUTE_NUMBER_MAX)]


def _one_error(value: object, adapter: TypeAdapter[object]) -> object:
    """The value as the adapter reads it; its first error as one of the field's own.

    Pydantic's would name each kind that the value might have been, as a step of the field's path.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        within = f"{field_path(first['loc'])}: " if first["loc"] else ""
        # Curly braces would be read as a template's.
        message = f"{within}{first['msg']}".replace("{", "{{").replace("}", "}}")
        raise PydanticCustomError(first["type"], message) from None


def _attribute_value(value: object, _: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, str):
        return _one_error(value, _TEXT)
    if isinstance(value, int) and not isinstance(value, bool):
        return _one_error(value, _NUMBER)
    raise PydanticCustomError("attribute_type", "an attribute is a text or a whole number")


AttributeValue = Annotated[_Text | _Number, WrapValidator(_attribute_value)]
#: What chooses the price of an operation: ``{"size": "1024x1024", "quality": "hd", "steps": 30}``.
Attributes = Annotated[
    dict[AttributeName, AttributeValue],
    Field(max_length=ATTRIBUTES_MAX),
    # In one order, so that the same attributes make the same request.
    AfterValidator(lambda attributes: dict(sorted(attributes.items()))),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NumberRange(_Body):
    """Whole numbers, both ends included; an end that is left out is open."""

    at_least: _Number | None = None
    at_most: _Number | None = None

    @model_validator(mode="after")
    def _has_numbers_in_it(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise PydanticCustomError("range_open", "a range has at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise PydanticCustomError("range_order", "at_least is no more than at_most")
        return self


_Choices = Annotated[list[AttributeValue], Field(min_length=1, max_length=CHOICES_MAX)]
_TEXT: Final[TypeAdapter[object]] = TypeAdapter(_Text)
_NUMBER: Final[TypeAdapter[object]] = TypeAdapter(_Number)
_CHOICES: Final[TypeAdapter[object]] = TypeAdapter(_Choices)
_RANGE: Final[TypeAdapter[object]] = TypeAdapter(NumberRange)


def _condition(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, list):
        return _one_error(value, _CHOICES)
    if isinstance(value, dict | NumberRange):
        return _one_error(value, _RANGE)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return _attribute_value(value, handler)
    raise PydanticCustomError(
        "condition_type", "a condition is a text, a whole number, a list of them, or a range with at_least, at_most"
    )


#: Equal to a value, one of some, or within a range.
Condition = Annotated[_Text | _Number | _Choices | NumberRange, WrapValidator(_condition)]


def plain(value: str | int) -> str | int:
    """A value as it is compared: a text that is a whole number is that number, ``"30"`` = ``"030"`` = 30."""
    return int(value) if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) else value


def _compared(condition: object) -> object:
    if isinstance(condition, list):
        return frozenset(plain(value) for value in condition)
    return frozenset([plain(condition)]) if isinstance(condition, str | int) else condition


class Variant(_Body):
    """The price of one unit for operations whose attributes meet all of ``when``; without ``when``, for all.

    Where an operation meets several variants, the dearest of them is its price.
    """

    when: Annotated[dict[AttributeName, Condition], Field(max_length=ATTRIBUTES_MAX)] = {}
    price: CostNanos


def _day(value: object) -> object:
    if isinstance(value, str) and _DATE.fullmatch(value):
        return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise PydanticCustomError("date_iso", "not a date such as 2026-11-01")


_Day = Annotated[date, BeforeValidator(_day)]


class Price(_Body):
    """What one unit of ``quantity`` costs from ``valid_from`` on, until ``valid_until`` or the next version."""

    unit: AttributeName = "image"
    valid_from: UtcMoment
    valid_until: Annotated[UtcMoment | None, AfterValidator(after_valid_from)] = None
    variants: Annotated[list[Variant], Field(min_length=1, max_length=VARIANTS_MAX)]
    #: Where the price stands, the day on which somebody looked, and of when what stands there is.
    source: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""
    read_on: _Day | None = None
    as_of: _Day | None = None

    @field_validator("variants")
    @classmethod
    def _variants_differ(cls, variants: list[Variant]) -> list[Variant]:
        seen: list[dict[str, object]] = []
        for index, variant in enumerate(variants):
            when = {name: _compared(condition) for name, condition in variant.when.items()}
            if when in seen:
                raise PydanticCustomError(
                    "variant_twice",
                    "variants[{later}] has the same conditions as variants[{earlier}]",
                    {"earlier": seen.index(when), "later": index},
                )
            seen.append(when)
        return variants


class PriceKey(_Body):
    """What a price is of."""

    provider: Name
    operation: OperationType
    model: ModelName

    def __str__(self) -> str:
        return f"{self.operation} with {self.model} of {self.provider}"


class PriceStored(PriceKey, Price):
    """One version as it stands. ``version`` counts its changes; ``in_force_until`` is where it ends: its own
    ``valid_until``, or the next version's ``valid_from``; null = open. ``shipped``: as the shipped file has it."""

    version: int
    shipped: bool
    recorded_at: datetime
    in_force_until: datetime | None = None


class PriceHistory(PriceKey):
    """All versions of one price, oldest first. ``changes``, where asked for: every form that any of them ever had, as
    the log has it, newest first."""

    in_force: datetime | None  #: ``valid_from`` of the version that holds now
    versions: list[PriceStored]
    changes: list[PriceStored] | None = None


class PriceList(BaseModel):
    """A page of the catalogue."""

    items: list[PriceStored]
    next_cursor: str | None


class RateQuery(PriceKey):
    """What would such a check be held at? ``at``: at that time, default now."""

    quantity: Quantity = 1
    attributes: Attributes | None = None
    at: UtcMoment | None = None


class RatedVariant(Variant):
    """A variant that the attributes do not exclude. ``assumed``: what it depends on and the check does not name."""

    index: int
    assumed: list[str]
    dearest: bool


class RatedPrice(_Body):
    """The version that holds."""

    version: int
    valid_from: datetime
    unit: str
    unit_price: TotalNanos


class RateAnswer(PriceKey):
    """What a check is held at, and why. Without a price: ``reason`` says what there is none of."""

    quantity: int
    at: datetime
    estimated_cost: TotalNanos | None
    price: RatedPrice | None
    variants: list[RatedVariant]
    reason: str | None = None
