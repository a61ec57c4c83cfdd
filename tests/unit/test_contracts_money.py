"""Money is integer nano-dollars inside and a decimal string outside; everything else is refused."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from contracts.money import COST_NANOS_MAX, CostNanos, TotalNanos, format_nanos, parse_nanos

COST: TypeAdapter[int] = TypeAdapter(CostNanos)
TOTAL: TypeAdapter[int] = TypeAdapter(TotalNanos)


def exact_nanos(text: str) -> Decimal:
    """The oracle: decimal arithmetic with more digits than any text here has."""
    with localcontext() as context:
        context.prec = 200
        return Decimal(text) * 1_000_000_000


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("0.000000000", 0),
        ("-0", 0),
        ("0.04", 40_000_000),
        ("0.040000000", 40_000_000),
        ("1", 1_000_000_000),
        ("007", 7_000_000_000),
        ("0.000000001", 1),
        ("123456.123456789", 123_456_123_456_789),
        ("9007199.254740993", 9_007_199_254_740_993),  # 2**53 + 1, which no float holds
        ("999999999.999999999", 999_999_999_999_999_999),
        ("1e-3", 1_000_000),
        ("1E-3", 1_000_000),
        ("1e-9", 1),
        ("2.5e+1", 25_000_000_000),
        ("1e2", 100_000_000_000),
        ("0.0000000010e1", 10),
        ("-0.04", -40_000_000),
        ("1000000000", 1_000_000_000_000_000_000),
    ],
)
def test_decimal_string_is_read_exactly(text: str, nanos: int) -> None:
    assert parse_nanos(text) == nanos
    assert exact_nanos(text) == nanos


@pytest.mark.parametrize(
    "text",
    ["0.0000000001", "0.0400000000", "1.0000000000", "1e-10", "10e-10", "0.1e-9", "0e-10", "1e-99"],
)
def test_more_than_nine_decimals_are_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError, match="more than nine decimals"):
        parse_nanos(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("NaN", id="NaN"),
        pytest.param("nan", id="nan"),
        pytest.param("sNaN", id="signalling NaN"),
        pytest.param("Infinity", id="Infinity"),
        pytest.param("-inf", id="-inf"),
        pytest.param("", id="empty"),
        pytest.param(" ", id="space"),
        pytest.param(" 1", id="leading space"),
        pytest.param("1 ", id="trailing space"),
        pytest.param("1\n", id="trailing newline"),
        pytest.param("\t1", id="tab"),
        pytest.param("1_000", id="underscore"),
        pytest.param("1,000", id="thousands separator"),
        pytest.param("0,04", id="decimal comma"),
        pytest.param("$1", id="currency"),
        pytest.param("+1", id="plus"),
        pytest.param("--1", id="two signs"),
        pytest.param("\u22121", id="typographic minus"),
        pytest.param(".5", id="no whole part"),
        pytest.param("5.", id="no fraction"),
        pytest.param("1.2.3", id="two points"),
        pytest.param("0x10", id="hexadecimal"),
        pytest.param("1e", id="no exponent"),
        pytest.param("e5", id="only exponent"),
        pytest.param("1e1.5", id="fractional exponent"),
        pytest.param("1e999", id="huge exponent"),
        pytest.param("1e999999999", id="exponent that would fill the memory"),
        pytest.param("1e-999999999", id="huge negative exponent"),
        pytest.param("9" * 31, id="31 digits"),
        pytest.param("9" * 100_000, id="many digits"),
        pytest.param("0." + "0" * 31, id="31 decimals"),
        pytest.param("\u0661", id="Arabic digit"),
        pytest.param("\uff11.\uff15", id="fullwidth digits"),
        pytest.param("0.0\u0664", id="mixed digits"),
        pytest.param("1\x00", id="NUL"),
        pytest.param("one", id="word"),
    ],
)
def test_what_is_no_plain_decimal_number_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError, match="not a decimal number"):
        parse_nanos(text)


@pytest.mark.parametrize("value", [0.04, 1.0, float("nan"), 0, 1, True, None, b"1", Decimal("1"), ["1"], {"usd": "1"}])
def test_what_is_no_string_is_refused(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="money is a decimal string"):
        parse_nanos(value)


@pytest.mark.parametrize("json", ["0.04", "4", "null", "true", "NaN", "1e-3", "[]"])
def test_json_that_is_no_string_is_no_cost(json: str) -> None:
    with pytest.raises(ValidationError) as refused:
        COST.validate_json(json)
    assert [error["type"] for error in refused.value.errors()] == ["money_string"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("-0.000000001", "greater_than_equal"),
        ("-1", "greater_than_equal"),
        ("1000000.000000001", "less_than_equal"),
        ("1e7", "less_than_equal"),
        ("1e99", "less_than_equal"),
        ("9" * 30, "less_than_equal"),
    ],
)
def test_cost_is_between_nothing_and_a_million_dollars(text: str, rule: str) -> None:
    with pytest.raises(ValidationError) as refused:
        COST.validate_python(text)
    [error] = refused.value.errors()
    bound = {"greater_than_equal": "0", "less_than_equal": "1000000"}[rule]
    assert error["type"] == rule
    assert error["msg"].endswith(f" {bound} dollars")  # as it was written, and not in nano-dollars


@pytest.mark.parametrize(("text", "nanos"), [("0", 0), ("1000000", COST_NANOS_MAX), ("1e6", COST_NANOS_MAX)])
def test_bounds_of_a_cost_are_costs(text: str, nanos: int) -> None:
    assert COST.validate_json(f'"{text}"') == nanos


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (40_000_000, "0.040000000"),
        (-1_500_000_000, "-1.500000000"),
        (2**63 - 1, "9223372036.854775807"),
        (10**30, "1" + "0" * 21 + ".000000000"),
    ],
)
def test_amounts_are_written_with_nine_decimals(nanos: int, text: str) -> None:
    assert format_nanos(nanos) == text
    assert TOTAL.dump_json(nanos) == f'"{text}"'.encode()


def test_amounts_stay_integers_in_python_and_are_strings_in_json() -> None:
    assert COST.dump_python(40_000_000) == 40_000_000
    assert COST.dump_json(40_000_000) == b'"0.040000000"'


@settings(max_examples=500)
@given(st.integers(-(10**18), 10**18))
def test_what_is_written_is_read_back(nanos: int) -> None:
    text = format_nanos(nanos)
    assert parse_nanos(text) == nanos
    assert exact_nanos(text) == nanos


@settings(max_examples=500)
@given(st.integers(0, COST_NANOS_MAX))
def test_cost_survives_json(nanos: int) -> None:
    assert COST.validate_json(COST.dump_json(nanos)) == nanos


@settings(max_examples=500)
@given(whole=st.integers(-(10**9), 10**9), fraction=st.text("0123456789", max_size=9), exponent=st.integers(-9, 5))
def test_reading_agrees_with_decimal(whole: int, fraction: str, exponent: int) -> None:
    text = f"{whole}{'.' if fraction else ''}{fraction}e{exponent}"
    if len(fraction) - exponent > 9:
        with pytest.raises(PydanticCustomError, match="more than nine decimals"):
            parse_nanos(text)
    else:
        assert parse_nanos(text) == exact_nanos(text)


@settings(max_examples=500)
@given(st.text(max_size=20))
def test_any_text_is_read_exactly_or_refused(text: str) -> None:
    try:
        nanos = parse_nanos(text)
    except PydanticCustomError:
        return
    assert exact_nanos(text) == nanos


@settings(max_examples=500)
@given(st.floats())
def test_no_float_is_ever_money(value: float) -> None:
    with pytest.raises(PydanticCustomError):
        parse_nanos(value)
