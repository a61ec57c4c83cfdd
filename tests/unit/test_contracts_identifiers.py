"""Identifiers: UUIDv7 in time order, and names that no subject, header, file name or log can choke on."""

import time
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contracts.identifiers import Id, ModelName, Name, OperationType, uuid7, uuid7s

ID: TypeAdapter[UUID] = TypeAdapter(Id)
NAME: TypeAdapter[str] = TypeAdapter(Name)
MODEL: TypeAdapter[str] = TypeAdapter(ModelName)
OPERATION: TypeAdapter[str] = TypeAdapter(OperationType)


@settings(max_examples=100)
@given(st.integers(0, 2**48 - 1))
def test_uuid7_has_version_variant_and_time(unix_ms: int) -> None:
    made = uuid7(unix_ms)
    assert made.version == 7
    assert made.variant == RFC_4122
    assert made.int >> 80 == unix_ms
    assert ID.validate_json(f'"{made}"') == made


@settings(max_examples=100)
@given(st.integers(0, 2**48 - 2), st.integers(1, 1000))
def test_uuid7_sorts_by_time(unix_ms: int, later_ms: int) -> None:
    later = min(unix_ms + later_ms, 2**48 - 1)
    assert uuid7(unix_ms) < uuid7(later)
    assert str(uuid7(unix_ms)) < str(uuid7(later))


def test_uuid7_takes_the_present_by_default() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_uuid7_of_one_millisecond_differ_in_all_random_bits() -> None:
    made = [uuid7(0).int for _ in range(2000)]
    assert len(set(made)) == len(made)
    ones, zeros = 0, 0
    for value in made:
        ones, zeros = ones | value, zeros | ~value
    random_bits = ((1 << 76) - 1) & ~(0b11 << 62)
    assert ones & zeros & ((1 << 128) - 1) == random_bits


@pytest.mark.parametrize(
    "text",
    [
        "fe429900-55f3-4875-8492-ba57090e203c",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "00000000-0000-0000-0000-000000000000",
        "019aa9c1-5b2a-7c3e-0f10-1a2b3c4d5e6f",
        "019aa9c1-5b2a-7c3e-cf10-1a2b3c4d5e6f",
        "019aa9c1-5b2a-7c3e-8f10-1a2b3c4d5e6",
        "019aa9c1-5b2a-7c3e-8f10-1a2b3c4d5e6f0",
        "019aa9c1-5b2a-7c3e-8f10-1a2b3c4d5e6g",
        "019aa9c1-5b2a-7c3e-8f10-1a2b3c4d5e6f\\n",
        "",
    ],
)
def test_id_that_is_no_uuid7_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        ID.validate_json(f'"{text}"')


REFUSED_EVERYWHERE = [
    pytest.param("", id="empty"),
    pytest.param(" ", id="space"),
    pytest.param("a b", id="space inside"),
    pytest.param("a\r\nNats-Msg-Id: b", id="CR LF"),
    pytest.param("a\n", id="trailing LF"),
    pytest.param("a\r", id="trailing CR"),
    pytest.param("\na", id="leading LF"),
    pytest.param("a\x00", id="NUL"),
    pytest.param("a\tb", id="tab"),
    pytest.param("a\u2028b", id="line separator"),
    pytest.param("é", id="non-ASCII letter"),
    pytest.param("a\u0661", id="non-ASCII digit"),
    pytest.param("\ufeffa", id="byte order mark"),
    pytest.param("a*", id="NATS wildcard *"),
    pytest.param(">", id="NATS wildcard >"),
    pytest.param("../a", id="path"),
    pytest.param("/a", id="absolute path"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("a'b", id="quote"),
    pytest.param('a"b', id="double quote"),
    pytest.param("a;b", id="semicolon"),
    pytest.param("a,b", id="comma"),
    pytest.param("a=b", id="equals"),
    pytest.param("a%b", id="per cent"),
    pytest.param("$a", id="dollar"),
    pytest.param("-a", id="leading dash"),
    pytest.param(".a", id="leading point"),
    pytest.param("a" * 129, id="too long"),
]


@pytest.mark.parametrize("text", REFUSED_EVERYWHERE)
@pytest.mark.parametrize("kind", [NAME, MODEL, OPERATION], ids=["name", "model", "operation"])
def test_dangerous_names_are_refused(kind: TypeAdapter[str], text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.validate_python(text)
    assert [error["type"] for error in refused.value.errors()] == ["string_pattern_mismatch"]


@pytest.mark.parametrize("value", [1, 1.0, True, None, ["a"], {"a": 1}])
@pytest.mark.parametrize("kind", [NAME, MODEL, OPERATION], ids=["name", "model", "operation"])
def test_what_is_no_string_is_no_name(kind: TypeAdapter[str], value: object) -> None:
    with pytest.raises(ValidationError):
        kind.validate_python(value)


@pytest.mark.parametrize(
    "text", ["a", "A", "0", "acme", "ada+x@example.com", "key_01", "org:team-7", "v1.2", "a" * 128]
)
def test_ordinary_names_are_taken(text: str) -> None:
    assert NAME.validate_python(text) == text
    assert MODEL.validate_python(text) == text


def test_only_a_model_may_hold_slashes() -> None:
    assert MODEL.validate_python("stability-ai/sdxl:1.0") == "stability-ai/sdxl:1.0"
    with pytest.raises(ValidationError):
        NAME.validate_python("stability-ai/sdxl")


@pytest.mark.parametrize("text", ["edit", "image_to_3d", "a" * 64])
def test_operation_types_are_lower_case_words(text: str) -> None:
    assert OPERATION.validate_python(text) == text


@pytest.mark.parametrize("text", ["Edit", "3d", "_edit", "image-edit", "image.edit", "a" * 65])
def test_other_spellings_are_no_operation_type(text: str) -> None:
    with pytest.raises(ValidationError):
        OPERATION.validate_python(text)


def test_many_uuid7s_are_as_unique_and_as_well_formed_as_one() -> None:
    made = uuid7s(1000)
    assert len(set(made)) == 1000
    assert {(one.version, one.variant) for one in made} == {(7, uuid7().variant)}
    assert all((one.int >> 80) == (made[0].int >> 80) for one in made)
