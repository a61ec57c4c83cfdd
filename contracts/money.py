"""Money: integer nano-dollars inside, decimal strings outside, never a float between the two."""

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

NANOS_PER_DOLLAR: Final = 1_000_000_000
DECIMALS_MAX: Final = 9
# One million dollars for one operation: far above any real price, and far below what would overflow an int8 total.
COST_NANOS_MAX: Final = 1_000_000 * NANOS_PER_DOLLAR
# A limit may be larger than any one amount: one billion dollars.
MAXIMUM_NANOS_MAX: Final = 1_000_000_000 * NANOS_PER_DOLLAR

# ASCII digits only, a short exponent: Decimal() alone would take "1_000", " 1 ", "NaN" and "1e999999999".
_PLAIN: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?", re.ASCII)
_DECIMAL: Final = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", re.ASCII)


def parse_nanos(text: object) -> int:
    """Nano-dollars of a decimal string such as ``"0.04"`` or ``"1e-3"``.

    Raises PydanticCustomError (a ValueError) where the value is not a string, not a plain decimal number, or has
    more than nine decimals, trailing zeros included.
    """
    if not isinstance(text, str):
        raise PydanticCustomError("money_string", 'money is a decimal string such as "0.04", not a JSON number')
    plain = _PLAIN.fullmatch(text)
    if plain:  # how almost all come
        return int(plain[1] + (plain[2] or "").ljust(DECIMALS_MAX, "0"))
    if not _DECIMAL.fullmatch(text):
        raise PydanticCustomError("money_decimal", "not a decimal number")
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int) or exponent < -DECIMALS_MAX:
        raise PydanticCustomError("money_decimals", "more than nine decimals")
    # Whole numbers from here on: Decimal's own arithmetic rounds beyond 28 digits.
    nanos = int("".join(map(str, digits))) * int(10 ** (exponent + DECIMALS_MAX))
    return -nanos if sign else nanos


def parse_bounded(text: object, least: int, most: int) -> int:
    """The same between two amounts. What is said of another is in dollars, as it was written."""
    nanos = parse_nanos(text)
    if nanos > most:
        raise PydanticCustomError("less_than_equal", f"Input should be less than or equal to {_whole(most)} dollars")
    if nanos < least:
        raise PydanticCustomError(
            "greater_than_equal", f"Input should be greater than or equal to {_whole(least)} dollars"
        )
    return nanos


def _whole(nanos: int) -> int:
    return nanos // NANOS_PER_DOLLAR


#: A dollar's digits and the decimals.
_DIGITS_MIN: Final = 1 + DECIMALS_MAX


def format_nanos(nanos: int) -> str:
    """The decimal string of an amount in nano-dollars, always with nine decimals: ``40_000_000 → "0.040000000"``."""
    digits = str(nanos).zfill(_DIGITS_MIN + (nanos < 0))
    return f"{digits[:-DECIMALS_MAX]}.{digits[-DECIMALS_MAX:]}"


MONEY_SCHEMA: Final[dict[str, object]] = {
    "type": "string",
    "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?$",
    "description": "decimal dollars, at most nine decimals",
    "examples": ["0.040000000"],
}

#: Nano-dollars in Python, a decimal string in JSON; an amount that cannot be negative.
CostNanos = Annotated[
    int,
    BeforeValidator(lambda text: parse_bounded(text, 0, COST_NANOS_MAX)),
    PlainSerializer(format_nanos, return_type=str, when_used="json"),
    WithJsonSchema(MONEY_SCHEMA),
]

#: The same for sums and balances: unbounded, may be negative, only ever written by us, and read by our clients.
TotalNanos = Annotated[
    int,
    BeforeValidator(lambda value: value if isinstance(value, int) else parse_nanos(value)),
    PlainSerializer(format_nanos, return_type=str, when_used="json"),
    WithJsonSchema(MONEY_SCHEMA),
]
