"""Corrected copies of dead letters: whatever is broken may be mended, and nothing else may change."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from contracts.events import EVENT_MODELS, parse_event
from ledger_service.domain.corrections import unfounded_changes
from tests.builders import ABSENT, Body, completed, failed, requested

#: What breaks a rule wherever it is put.
BROKEN: st.SearchStrategy[Any] = st.sampled_from([None, [], -1.5, "\n", {"a": 1}, "a\0b"])
EVENTS = {"requested": requested(), "completed": completed(metadata={"a": [1]}), "failed": failed()}
PLACES = {
    kind: [("data", name) for name in event["data"]] + [(name,) for name in event if name != "data"]
    for kind, event in EVENTS.items()
}


def put(event: Body, place: tuple[str, ...], value: Any) -> Body:
    copy: Body = json.loads(json.dumps(event))
    inner = copy
    for step in place[:-1]:
        inner = inner[step]
    if value is ABSENT:
        inner.pop(place[-1], None)
    else:
        inner[place[-1]] = value
    return copy


def is_valid(event: Body) -> bool:
    try:
        parse_event(json.dumps(event).encode())
    except ValueError:
        return False
    return True


@given(st.data())
def test_what_is_broken_may_be_mended(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(EVENTS)))
    original = EVENTS[kind]
    for place in data.draw(st.lists(st.sampled_from(PLACES[kind]), unique=True, max_size=5)):
        broken = put(original, place, data.draw(st.one_of(BROKEN, st.just(ABSENT))))
        # Some members may be missing or null: then nothing is broken there.
        original = original if is_valid(put(EVENTS[kind], place, _at(broken, place))) else broken
    if data.draw(st.booleans()):
        original = put(original, ("data", "superfluous"), 1)
    assert is_valid(EVENTS[kind])
    assert unfounded_changes(json.dumps(original).encode(), EVENTS[kind]) == []


def _at(event: Body, place: tuple[str, ...]) -> Any:
    inner: Any = event
    for step in place:
        if step not in inner:
            return ABSENT
        inner = inner[step]
    return inner


@given(st.data())
def test_what_is_right_may_not_change(data: st.DataObject) -> None:
    """Each other valid value of a member is told, however much is broken beside it."""
    kind = data.draw(st.sampled_from(["completed", "failed"]))
    original = put(EVENTS[kind], ("data", "cost"), 0.04)
    other = {"completed": completed(metadata={"b": 2}), "failed": failed()}[kind]
    place = data.draw(st.sampled_from([one for one in PLACES[kind] if _at(other, one) != _at(EVENTS[kind], one)]))
    changed = put(EVENTS[kind], place, _at(other, place))
    told = unfounded_changes(json.dumps(original).encode(), changed)
    assert told
    assert all(one.startswith(".".join(place)) for one in told)


def test_a_subject_that_is_not_the_account_may_be_mended_at_either() -> None:
    right = completed()
    for place in (("subject",), ("data", "account_id")):
        assert unfounded_changes(json.dumps(put(right, place, "other")).encode(), right) == []


def test_an_unknown_type_hides_other_rules_which_may_be_mended_too() -> None:
    right = completed()
    broken = put(put(put(right, ("type",), "usage.operation.sung.v1"), ("data", "cost"), 1), ("data", "quantiti"), 1)
    assert unfounded_changes(json.dumps(broken).encode(), right) == []
    assert unfounded_changes(json.dumps(broken).encode(), put(right, ("id",), completed()["id"])) == ["id"]


def test_what_stands_twice_may_become_one_and_the_rest_stays() -> None:
    right = {**completed(cost="0.02", metadata={"a": [{"b": 1}]}), "x": 1}
    broken = json.dumps(right).replace('"cost":', '"cost": "0.01", "cost":').replace('"b": 1', '"b": 1, "b": 2')
    assert unfounded_changes(broken.encode(), right) == []
    assert unfounded_changes(broken.encode(), put(right, ("data", "cost"), "0.01")) == []
    assert unfounded_changes(broken.encode(), put(right, ("data", "quantity"), 9)) == ["data.quantity"]
    deep = json.dumps(right).replace('"x": 1', f'"x": {"[" * 900}{{"y": 1, "y": 2}}{"]" * 900}')
    assert unfounded_changes(deep.encode(), right) == []
    assert unfounded_changes(deep.encode(), put(right, ("data", "quantity"), 9)) == ["data.quantity"]
    twice = json.dumps(right).replace('"x": 1', '"x": 1, "x": 2')
    assert unfounded_changes(twice.encode(), put(right, ("x",), ABSENT)) == []
    assert unfounded_changes(twice.encode(), put(right, ("data", "cost"), "0.01")) == ["data.cost"]


def test_bytes_that_say_nothing_may_become_anything() -> None:
    for body in (b"", b"{", b"\xff", b"[]", b"1", b"[" * 5000, b'{"a": NaN}', b'{"a": 1e999}'):
        assert unfounded_changes(body, completed()) == []


def test_true_is_not_one_and_large_integers_stay_what_they_are() -> None:
    event = {**completed(cost=1), "flag": True, "number": 10**30}
    right = put(event, ("data", "cost"), "1")
    assert unfounded_changes(json.dumps(event).encode(), right) == []
    assert unfounded_changes(json.dumps(event).encode(), {**right, "flag": 1}) == ["flag"]
    assert unfounded_changes(json.dumps(event).encode(), {**right, "number": 10**30 + 1}) == ["number"]


def test_every_type_of_event_is_tried() -> None:
    assert {event["type"] for event in EVENTS.values()} == set(EVENT_MODELS)
