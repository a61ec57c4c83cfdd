"""Deliveries, purely: signatures, answers, retries, who wants what, and what is a hole."""

import base64
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from contracts.notifications import BY_NAME, KINDS
from contracts.notifications.kind import Audience, Feed
from contracts.subjects import notification_subject
from contracts.webhooks import DeliveryState, DisabledReason
from ledger_service.domain.holes import Hole, missing_since, overdue
from ledger_service.domain.notifications import (
    Fact,
    Place,
    Subscription,
    may_subscribe,
    notifications_of,
    wanted,
    wants,
)
from ledger_service.domain.webhook_schedule import JITTER, RETRY_AFTER_SECONDS_MAX, RETRY_SECONDS, wait_seconds
from ledger_service.domain.webhooks import Answer, Due, Policy, Shares, choose, headers, judge, signature
from tests.builders import at

NOW = at("2026-11-05 12:00")
CHANCE = st.floats(0, 1, exclude_max=True)
TYPES = [kind.name for kind in KINDS]
A, B = UUID(int=1), UUID(int=2)


# --- signatures


def test_the_vector_of_the_specifications_own_tests() -> None:
    """As its libraries pin it."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3, unique=True), st.binary(max_size=500))
def test_the_reference_takes_every_valid_secret_and_no_other(secrets: list[bytes], body: bytes) -> None:
    sent = headers(secrets, A, datetime.now(UTC), json.dumps(body.hex()).encode())
    for secret in secrets:
        verified = Webhook(base64.b64encode(secret).decode()).verify(json.dumps(body.hex()).encode(), sent)
        assert verified == body.hex()
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(base64.b64encode(b"x" * 23).decode()).verify(json.dumps(body.hex()).encode(), sent)


# --- what an answer means


def test_the_schedule_is_the_specifications() -> None:
    assert [wait_seconds(tries, None, 0.0) for tries in range(1, 11)] == [*RETRY_SECONDS, None]
    assert sum(RETRY_SECONDS) == timedelta(hours=75, minutes=35, seconds=5).total_seconds()


@given(st.integers(1, len(RETRY_SECONDS)), st.none() | st.floats(0, 1e9), CHANCE)
def test_a_wait_is_what_is_planned_and_a_little_or_what_is_asked_for(
    tries: int, asked: float | None, chance: float
) -> None:
    found = wait_seconds(tries, asked, chance)
    planned = RETRY_SECONDS[tries - 1]
    assert found is not None
    assert planned <= found <= max(planned * (1 + JITTER), RETRY_AFTER_SECONDS_MAX)
    if asked is None:
        assert found <= planned * (1 + JITTER)
    else:
        assert found >= min(asked, RETRY_AFTER_SECONDS_MAX)


@given(
    st.builds(Answer, st.none() | st.integers(100, 599), st.none() | st.just("error")),
    st.integers(1, 20),
    st.none() | st.integers(0, 10 * 86_400),
    CHANCE,
)
def test_what_follows_from_an_answer(answer: Answer, tries: int, failing: int | None, chance: float) -> None:
    since = None if failing is None else NOW - timedelta(seconds=failing)
    verdict = judge(answer, tries, since, NOW, chance, Policy())
    is_success = answer.error is None and answer.status is not None and 200 <= answer.status < 300
    assert (verdict.state is DeliveryState.DELIVERED) == is_success
    if is_success:
        assert (verdict.again_in_seconds, verdict.disable) == (None, None)
    elif answer.status == 410:
        assert verdict.disable is DisabledReason.GONE
    elif failing is not None and failing >= 5 * 86_400:
        assert verdict.disable is DisabledReason.FAILING
    else:
        assert verdict.disable is None
        assert (verdict.state is DeliveryState.FAILED) == (tries > len(RETRY_SECONDS))
        assert (verdict.again_in_seconds is None) == (verdict.state is DeliveryState.FAILED)
    if verdict.disable is not None:
        assert verdict.state is DeliveryState.PENDING


def test_a_redirect_is_a_failure_whatever_it_says() -> None:
    assert judge(Answer(302), 1, None, NOW, 0.0, Policy()).state is DeliveryState.PENDING


# --- whose turn it is


OWNERS = {A: "", B: "", UUID(int=3): "acme", UUID(int=4): "acme", UUID(int=5): "other"}
LANES = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([*OWNERS])), unique=True)


@given(LANES, st.integers(1, 40), st.integers(1, 3), st.integers(0, 3))
def test_no_endpoint_and_no_owner_has_more_than_its_share(
    lanes: list[tuple[str, UUID]], in_all: int, share: int, already: int
) -> None:
    shares = Shares(in_all, share)
    due = [Due(lane, OWNERS[lane[1]]) for lane in lanes]
    taken = choose(due, {A: already}, {"": already}, shares)
    endpoints = Counter({A: already}) + Counter(endpoint for _, endpoint in taken)
    owners = Counter({"": already}) + Counter(OWNERS[endpoint] for _, endpoint in taken)
    assert len(taken) <= max(0, in_all - already)
    for endpoint, owner in OWNERS.items():
        assert endpoints[endpoint] <= max(share, already if endpoint == A else 0)
        assert owners[owner] <= max(shares.of_owner(owner), already if owner == "" else 0)
    assert taken == [lane for lane in lanes if lane in taken]
    if len(taken) < in_all - already:
        for endpoint in {endpoint for account, endpoint in lanes if (account, endpoint) not in taken}:
            owner = OWNERS[endpoint]
            assert endpoints[endpoint] >= share or owners[owner] >= shares.of_owner(owner)


def test_one_account_leaves_room_for_others_and_so_do_those_for_all() -> None:
    assert [Shares(32).of_owner(owner) for owner in ("acme", "")] == [4, 16]
    assert [Shares(1).of_owner(owner) for owner in ("acme", "")] == [1, 1]


# --- who wants what


def fact(kind: str, account_id: str = "acme", **fields: Any) -> Fact:
    known: dict[str, dict[str, Any]] = {
        "limit.threshold_reached": {
            "account_id": account_id, "limit_id": "images", "scope_key": "", "meter": "cost",
            "period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z", "threshold_percent": 80,
            "maximum": "10.000000000", "used": "8.000000000",
        },
        "limit_check.denied": {
            "check": {"operation_id": str(UUID(int=7)), "account_id": account_id, "user_id": "ada", "quantity": 2,
                      "operation": "edit", "provider": "p", "model": "m", "attributes": {"size": "1"}},
            "decision": {"denial": {"code": "limit_exceeded", "message": "no", "limit_id": "images"},
                         "decided_at": "2026-11-05T12:00:00Z", "limits": []},
        },
        "period.closed": {"account_id": account_id or None, "period": "2026-10-01", "author": "a", "reason": "r"},
        "dead_letter.opened": {
            "dead_letter_id": 3, "code": "invalid_request", "detail": "d", "origin": "http", "subject": None,
            "account_id": None, "received_count": 1, "first_received_at": "2026-11-05T12:00:00Z",
        },
        "source.hole_found": {"source": "s", "first_sequence": 3, "last_sequence": 4,
                              "missing_since": "2026-11-05T12:00:00Z"},
    }  # fmt: skip
    data, found = known[kind], BY_NAME[kind]
    return Fact(found.feed, Place(1, 1), found.event, "name", account_id, NOW, NOW, {**data, **fields})


def subscription(account_id: str = "", *types: str, endpoint_id: UUID = A, **fields: Any) -> Subscription:
    return Subscription(endpoint_id, account_id, frozenset(types or TYPES), fields.get("since", NOW), enabled=True)


@pytest.mark.parametrize("kind", TYPES)
def test_every_kind_has_a_payload_that_is_always_the_same(kind: str) -> None:
    [first], [second] = notifications_of(fact(kind)), notifications_of(fact(kind))
    assert (first.message_id, first.body) == (second.message_id, second.body)
    payload = json.loads(first.body)
    assert (payload["type"], payload["timestamp"]) == (kind, "2026-11-05T12:00:00Z")
    assert set(payload["data"]) == set(BY_NAME[kind].data.model_fields)
    assert all(part.replace("_", "").isalnum() for part in kind.split("."))
    assert notification_subject(kind) == f"ledger.v1.notifications.{kind}"


def test_money_stays_a_decimal_string() -> None:
    [found] = notifications_of(fact("limit.threshold_reached"))
    assert json.loads(found.body)["data"]["used"] == "8.000000000"


def test_what_is_no_kind_is_not_told() -> None:
    other = Fact(Feed.LOG, Place(1, 1), "ledger.plan.changed.v1", "name", "", NOW, NOW, {})
    assert notifications_of(other) == []


@given(
    st.sampled_from(TYPES),
    st.sampled_from(["", "acme", "other"]),
    st.sampled_from(["", "acme"]),
    st.sets(st.sampled_from(TYPES)),
)
def test_an_endpoint_gets_its_types_of_its_account(kind: str, about: str, owner: str, types: set[str]) -> None:
    [notification] = notifications_of(fact(kind, about))
    to = Subscription(A, owner, frozenset(types), NOW, enabled=True)
    audience = BY_NAME[kind].audience
    expected = kind in types and (owner == "" or about == owner or (audience is Audience.ACCOUNTS and about == ""))
    assert wants(to, notification) == expected
    if audience is Audience.OPERATORS:
        assert not may_subscribe(BY_NAME[kind], "acme")


def test_what_was_before_or_while_it_was_off_is_not_sent() -> None:
    [notification] = notifications_of(fact("limit_check.denied"))
    assert wants(subscription(), notification)
    assert not wants(subscription(since=NOW + timedelta(microseconds=1)), notification)
    assert not wants(Subscription(A, "", frozenset(TYPES), NOW, enabled=False), notification)


def test_what_goes_where_keeps_the_order_of_what_happened() -> None:
    told = [one for kind in TYPES for one in notifications_of(fact(kind))]
    pairs = wanted([subscription("", *TYPES), subscription("acme", TYPES[0], endpoint_id=B)], told)
    assert [(to.endpoint_id, one.type) for to, one in pairs] == [
        (A, TYPES[0]),
        (B, TYPES[0]),
        *((A, one) for one in TYPES[1:]),
    ]


# --- holes


def test_what_is_left_of_a_gap_is_as_old_as_the_gap() -> None:
    first = missing_since([Hole("s", 5, 9)], {}, NOW)
    later = missing_since([Hole("s", 5, 6), Hole("s", 8, 9), Hole("t", 5, 6)], first, NOW + timedelta(seconds=50))
    assert later == {
        Hole("s", 5, 6): NOW,
        Hole("s", 8, 9): NOW,
        Hole("t", 5, 6): NOW + timedelta(seconds=50),
    }
    found = [hole for hole, _ in overdue(later, NOW + timedelta(seconds=60), 60)]
    assert found == [Hole("s", 5, 6), Hole("s", 8, 9)]
    assert overdue(later, NOW + timedelta(seconds=59), 60) == []
