"""Which events of a batch may enter the log together, and what those that may not are."""

import json
from datetime import timedelta

import pytest

from contracts.events import parse_event
from ledger_service.domain.batches import (
    CONFLICTS,
    DEAD_LETTERED,
    Receipt,
    Submission,
    classify,
    in_future,
    same_json,
    split_first,
)

TYPES = {"r": "usage.operation.requested.v1", "c": "usage.operation.completed.v1", "f": "usage.operation.failed.v1"}


def an_event(kind: str, event: int, operation: int = 1, account: str = "acme", user: str = "ada") -> Submission:
    """A submission of a (r)equested, (c)ompleted or (f)ailed event, with small numbers for ids."""
    data: dict[str, object] = {
        "operation_id": f"019aa9c1-0000-7000-8000-{operation:012d}",
        "account_id": account,
        "user_id": user,
        "operation": "edit",
        "provider": "local",
        "model": "m",
        "quantity": 1,
        "request_bytes": 0,
    }
    if kind == "r":
        data["estimated_cost"] = "0.04"
    else:
        data |= {"cost": "0.04", "requested_at": "2026-11-22T10:00:00Z", "duration_ms": 1, "actual_provider": "local"}
        data |= {"status_code": 200, "retry_count": 0}
        data |= {"response_bytes": 0} if kind == "c" else {"error": {"code": "e", "message": "m"}}
    body = {
        "specversion": "1.0",
        "id": f"019aa9c1-1111-7000-8000-{event:012d}",
        "type": TYPES[kind],
        "source": "s",
        "subject": account,
        "time": "2026-11-22T10:00:00Z",
        "data": data,
    }
    raw = json.dumps(body).encode()
    return Submission(parse_event(raw), raw, "http")


@pytest.mark.parametrize(
    ("batch", "first", "later"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param([an_event("c", 1)], [0], [], id="one"),
        pytest.param([an_event("c", 1), an_event("c", 1)], [0], [1], id="the same twice"),
        pytest.param([an_event("c", 1)] * 4, [0], [1, 2, 3], id="the same four times"),
        pytest.param([an_event("c", 1), an_event("c", 1, user="bob")], [0], [1], id="one id, another body"),
        pytest.param([an_event("c", 1), an_event("f", 1, 2)], [0], [1], id="one id, another operation"),
        pytest.param([an_event("c", 1, 1), an_event("c", 2, 2)], [0, 1], [], id="two operations"),
        pytest.param([an_event("r", 1), an_event("c", 2)], [0, 1], [], id="request and outcome"),
        pytest.param([an_event("c", 2), an_event("r", 1)], [0, 1], [], id="outcome before request"),
        pytest.param([an_event("c", 1), an_event("f", 2)], [0], [1], id="two outcomes, completed first"),
        pytest.param([an_event("f", 2), an_event("c", 1)], [0], [1], id="two outcomes, failed first"),
        pytest.param([an_event("r", 1), an_event("r", 2)], [0, 1], [], id="two requests of one operation"),
        pytest.param(
            [an_event("c", 1, account="acme"), an_event("c", 1, account="other")], [0, 1], [], id="ids of two accounts"
        ),
        pytest.param(
            [an_event("c", 1), an_event("f", 2), an_event("c", 3, 2), an_event("f", 2, 3)],
            [0, 2, 3],
            [1],
            id="what came second does not stand in the way of others",
        ),
        pytest.param(
            [an_event("r", 1), an_event("r", 1), an_event("c", 2), an_event("f", 3), an_event("r", 4, 2)],
            [0, 2, 4],
            [1, 3],
            id="a bit of everything",
        ),
    ],
)
def test_first_of_each_goes_first(batch: list[Submission], first: list[int], later: list[int]) -> None:
    split = split_first(batch, range(len(batch)))
    assert (split.first, split.later) == (first, later)


def test_only_the_given_of_a_batch_are_looked_at() -> None:
    batch = [an_event("c", 1), an_event("c", 1, 2), an_event("f", 2, 2), an_event("f", 2, 2)]
    assert split_first(batch, range(4)).first == [0, 2]
    split = split_first(batch, [1, 2, 3])
    assert (split.first, split.later) == ([1], [2, 3])


def test_event_and_operation_with_one_id_do_not_meet() -> None:
    event = an_event("c", 1, operation=1)
    other = an_event("c", 2, operation=2)
    raw = other.body.replace(str(other.event.id).encode(), str(event.event.data.operation_id).encode())
    namesake = Submission(parse_event(raw), raw, "http")
    assert namesake.event.id == event.event.data.operation_id
    assert split_first([event, namesake], range(2)).later == []


@pytest.mark.parametrize(
    ("kind", "has_outcome", "receipt"),
    [
        ("c", True, Receipt.OPERATION_CONFLICT),
        ("f", True, Receipt.OPERATION_CONFLICT),
        ("c", False, None),
        ("f", False, None),
        ("r", True, None),
        ("r", False, None),
    ],
)
def test_not_in_the_log_is_a_conflict_only_for_a_second_outcome(
    kind: str, has_outcome: bool, receipt: Receipt | None
) -> None:
    assert classify(an_event(kind, 2), None, has_outcome) is receipt


@pytest.mark.parametrize("has_outcome", [True, False])
@pytest.mark.parametrize("kind", ["r", "c", "f"])
def test_in_the_log_with_the_same_body_is_a_duplicate(kind: str, has_outcome: bool) -> None:
    submission = an_event(kind, 1)
    assert classify(submission, submission.body.decode(), has_outcome) is Receipt.DUPLICATE


def test_in_the_log_with_the_same_body_written_otherwise_is_a_duplicate() -> None:
    submission = an_event("c", 1)
    rewritten = json.dumps(json.loads(submission.body), sort_keys=True, indent=2)
    assert rewritten.encode() != submission.body
    assert classify(submission, rewritten, has_outcome=True) is Receipt.DUPLICATE


@pytest.mark.parametrize("has_outcome", [True, False])
def test_in_the_log_with_another_body_is_a_conflict(has_outcome: bool) -> None:
    recorded = an_event("c", 1, user="bob").body.decode()
    assert classify(an_event("c", 1), recorded, has_outcome) is Receipt.CONFLICT


def test_conflicts_are_dead_lettered_and_nothing_else() -> None:
    assert {Receipt.CONFLICT, Receipt.OPERATION_CONFLICT} == CONFLICTS
    assert {*CONFLICTS, Receipt.IN_FUTURE} == DEAD_LETTERED
    values = [receipt.value for receipt in Receipt]
    assert values == ["accepted", "duplicate", "conflict", "operation_conflict", "in_future"]


def test_a_year_ahead_is_the_last_moment_that_an_event_may_be_dated() -> None:
    batch = [an_event("r", 1), an_event("c", 2), an_event("f", 3)]
    time = batch[0].event.time
    assert in_future(batch, time - timedelta(days=366)) == []
    assert in_future(batch, time - timedelta(days=366, microseconds=1)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("{}", "{}", True),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', True),
        ('{"a":1}', ' { "a" : 1 }\n', True),
        ('{"a":"é"}', '{"a":"\\u00e9"}', True),
        ('{"a":1}', '{"a":2}', False),
        ('{"a":1}', '{"a":"1"}', False),
        ('{"a":1}', '{"a":1,"b":null}', False),
        ("[1,2]", "[2,1]", False),
        ('{"a":{"b":[1]}}', '{"a":{"b":[1]}}', True),
        ('{"cost":"0.04"}', '{"cost":"0.040"}', False),
    ],
)
def test_same_json_compares_what_is_said(one: str, other: str, same: bool) -> None:
    assert same_json(one.encode(), other) is same
    assert same_json(other.encode(), one) is same
