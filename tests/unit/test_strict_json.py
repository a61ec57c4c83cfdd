"""JSON from callers: what stands twice is refused, and found in time that grows with the body alone."""

import pytest

from contracts.problems import NAME_LENGTH_MAX, ProblemError
from contracts.strict_json import _once, _RepeatedMemberError, refuse_repeated_members, refuse_repeats_in_json


@pytest.mark.parametrize("refuse", [refuse_repeated_members, refuse_repeats_in_json])
@pytest.mark.parametrize(
    ("body", "member"),
    [
        (b'{"a":1,"a":1}', "a"),
        (b'[{"a":{"b":1,"c":2,"b":3}}]', "b"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"a":1,"b":1,"b":2,"a":2}', "b"),
    ],
)
def test_a_member_that_stands_twice_is_named(refuse: object, body: bytes, member: str) -> None:
    assert callable(refuse)
    with pytest.raises(ProblemError) as raised:
        refuse(body)
    [error] = raised.value.problem.errors
    assert (error.field, error.rule) == (member, "repeated_member")


@pytest.mark.parametrize("refuse", [refuse_repeated_members, refuse_repeats_in_json])
@pytest.mark.parametrize("body", [b'{"a":{"a":1},"b":[{"a":1},{"a":1}]}', b'{"a":"\\"a\\"","b":"a"}', b"[]", b"1"])
def test_one_that_stands_once_in_each_object_is_none(refuse: object, body: bytes) -> None:
    assert callable(refuse)
    refuse(body)


def test_a_name_of_the_senders_is_cut() -> None:
    name = "n" * 10_000
    with pytest.raises(ProblemError) as raised:
        refuse_repeated_members(f'{{"{name}":1,"{name}":2}}'.encode())
    assert raised.value.problem.errors[0].field == name[:NAME_LENGTH_MAX] + "…"


def test_many_members_are_not_compared_each_with_each() -> None:
    """One request of 650 kB kept the ledger busy for half a minute."""
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    members: list[tuple[str, object]] = [(Name(f"k{index}"), 1) for index in range(3_000)]
    with pytest.raises(_RepeatedMemberError):
        _once([*members, (Name("z"), 1), (Name("z"), 2)])
    assert compared < 10 * len(members)
