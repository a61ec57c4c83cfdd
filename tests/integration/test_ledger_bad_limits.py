"""What must not reach a limit: over HTTP and over NATS the same problem, which names field and rule, and nothing held.

Each test walks through many cases on one ledger and reports all that went wrong. One case each, with a ledger of its
own, is in test_ledger_api.py; the models alone are in tests/unit/test_contracts_limits.py.
"""

import json
import random
import string
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from nats.aio.client import Client as Nats

from contracts.limits import TTL_SECONDS_MAX
from contracts.subjects import LIMITS_CHECK
from tests import builders
from tests.builders import Body, limit, plan
from tests.servers import Ledger

Database = asyncpg.Connection

#: JSON text that no Python value is written as.
NAN, INFINITY, HUGE = "NaN", "Infinity", "1e400"
#: (field, JSON text, rule; None where any rule will do)
Case = tuple[str, str, str | None]

_OBJECTS = ("[]", "{}", '["a"]', '{"a": 1}')
_NOT_NUMBERS = ('"1"', '""', "true", "false", "null", *_OBJECTS, NAN, INFINITY, "-Infinity", HUGE)
_NAMES = ("account_id", "user_id", "project_id", "api_key_id", "provider", "model")


def wrong_values() -> Iterator[Case]:
    for field in _NAMES:
        for value in ("1", "1.5", "true", *_OBJECTS, NAN):
            yield field, value, "string_type"
        for text in ("", " ", "a b", " a", "a ", "ä", "a\u202eb", "a\u0000", "a\n", "-a", ".a", "a" * 129, "a'b", "%"):
            yield field, json.dumps(text), "string_pattern_mismatch"
    for field in ("account_id", "user_id", "provider", "model", "operation", "quantity", "dry_run", "operation_id"):
        yield field, "null", None
    for text in ("Generate", "", "generate ", "é", "a" * 65, "9", "_a"):
        yield "operation", json.dumps(text), "string_pattern_mismatch"
    for value in ("1", '""', '"1"', *_OBJECTS, f'"{"0" * 36}"', '"9f0d4a1e-0b5e-4c3a-8d7e-1f2a3b4c5d6e"'):
        yield "operation_id", value, None
    for value in _NOT_NUMBERS:
        yield "quantity", value, None
        if value != "null":
            yield "ttl_seconds", value, None
    for field, most in (("quantity", 1_000_000), ("ttl_seconds", TTL_SECONDS_MAX)):
        for value in ("0", "-1", str(-(10**30))):
            yield field, value, "greater_than_equal"
        yield field, str(most + 1), "less_than_equal"
        for value in (str(2**63), str(10**30), "1" * 4000):
            yield field, value, None
        for value in ("1.0", "1e0", "0.5", "-0.0"):
            yield field, value, "int_type"
    for value in ("0", "1", "-1", "0.052", "1e-3", "true", *_OBJECTS, NAN, INFINITY, "-Infinity", HUGE, "1" * 400):
        yield "estimated_cost", value, "money_string"
    for text in (
        *("", " ", "NaN", "nan", "sNaN", "Infinity", "-inf", "1e999", "1e-999", "1E+", "0x1", "1_000", "1,5", " 1"),
        *(
            "1 ",
            "1\n",
            "+1",
            ".5",
            "5.",
            "\u0660.\u0665",
            "\uff11",
            "$1",
            "1" * 31,
            "one",
            "1.0.0",
            "--1",
            "1/2",
            "null",
        ),
    ):
        yield "estimated_cost", json.dumps(text), "money_decimal"
    for text in ("0.0000000001", "0.0520000000", "1e-10", "1." + "0" * 30):
        yield "estimated_cost", json.dumps(text), "money_decimals"
    for text in ("-0.000000001", "-1", "-1e9"):
        yield "estimated_cost", json.dumps(text), "greater_than_equal"
    for text in ("1000000.000000001", "1e7", "1e99", "9" * 30):
        yield "estimated_cost", json.dumps(text), "less_than_equal"
    for value in ("0", "1", '"true"', '"yes"', *_OBJECTS, NAN):
        yield "dry_run", value, "bool_type"
    for field in ("Quantity", "estimatedCost", "cost", "limit", "scope", "window", "mode", "allowed", "", "a.b"):
        yield field, "1", "extra_forbidden"


def written(field: str, value: str) -> bytes:
    """A check that is fine but for this field, whose value is the JSON text."""
    body = {**builders.check(estimated_cost="0.052"), field: "PLACE"}
    return json.dumps(body).replace('"PLACE"', value).encode()


NO_JSON = {
    "nothing": b"",
    "a blank": b" ",
    "half an object": b'{"operation_id": ',
    "a comma too many": b'{"quantity": 1,}',
    "single quotes": b"{'quantity': 1}",
    "a name without quotes": b"{quantity: 1}",
    "a comment": b'{"quantity": 1 /* one */}',
    "two objects": b"{}{}",
    "two lines of objects": b"{}\n{}",
    "a control character": b'{"user_id": "a\x01"}',
    "no UTF-8": b'{"user_id": "\xff"}',
    "UTF-16": '{"quantity": 1}'.encode("utf-16"),
    "half a surrogate pair": b'{"user_id": "\\ud800"}',
    "a number that begins with 0": b'{"quantity": 01}',
    "a number with a sign": b'{"quantity": +1}',
    "hexadecimal": b'{"quantity": 0x1}',
    "very deep": b"[" * 50_000,
    "very deep, under a field": b'{"quantity": ' + b'{"a":' * 10_000,
}
NO_OBJECT = (b"null", b"true", b"1", b'"text"', b"[]", b"[{}]", b"1.5")


class Both:
    """Asks over both transports and tells whether they agree."""

    def __init__(self, ledger: Ledger, connection: Nats) -> None:
        self._http, self._nats = ledger.http, connection

    async def ask(self, body: bytes) -> list[tuple[int, Body]]:
        """(status, problem or decision) over HTTP and over NATS."""
        answer = await self._http.post("/v1/limit-checks", content=body, headers={"content-type": "application/json"})
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
        message = await self._nats.request(LIMITS_CHECK, body, timeout=10)
        code = (message.headers or {}).get("Nats-Service-Error-Code", "200")
        return [(answer.status_code, answer.json()), (int(code), json.loads(message.data))]


@pytest.fixture
def both(ledger: Ledger, nats_client: Nats) -> Both:
    return Both(ledger, nats_client)


async def assert_nothing_was_kept(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    """Only the plan and the account are in the log; and a good check finds all its room."""
    assert await database.fetchval("select count(*) from event_log where operation_id is not null") == 0
    assert await database.fetchval("select count(*) from event_log") == 2
    for table in ("decisions", "counters"):
        assert await database.fetchval(f"select count(*) from {table}") == 0, table
    assert await database.fetchval("select count(*) from accounts") == 1
    decision = await ledger.check(builders.check(estimated_cost="1"))
    assert decision["allowed"]
    assert [state["available"] for state in decision["limits"]] == ["0.000000000"]


async def test_a_wrong_value_is_named_with_its_rule_over_both_transports(
    ledger: Ledger, both: Both, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    wrong = []
    for field, value, rule in wrong_values():
        (status, problem), over_nats = answers = await both.ask(written(field, value))
        named = [(error["field"], error["rule"]) for error in problem.get("errors", [])]
        fine = (
            status == 422
            and problem["code"] == "invalid_request"
            and [name for name, _ in named] == [field]
            and (rule is None or named[0][1] == rule)
            and problem["errors"][0]["message"]
            and problem["detail"].startswith(f"{field}: " if field else "body: ")
            and over_nats == answers[0]
        )
        if not fine:
            wrong.append((field, value[:60], rule, answers))
    assert not wrong, "\n".join(map(str, wrong))
    await assert_nothing_was_kept(ledger, database)


async def test_several_wrong_values_are_all_named(ledger: Ledger, both: Both) -> None:
    body = builders.check(quantity=0, estimated_cost=1, ttl_seconds=10**9, user_id="", surprise=1, operation_id=1)
    for status, problem in await both.ask(json.dumps(body).encode()):
        assert status == 422
        named = {error["field"] for error in problem["errors"]}
        assert named == {"quantity", "estimated_cost", "ttl_seconds", "user_id", "surprise", "operation_id"}
        assert "(and 5 more)" in problem["detail"]
    assert ledger.url


async def test_what_is_not_json_or_no_object_is_refused_over_both_transports(
    ledger: Ledger, both: Both, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    wrong = []
    for name, body in NO_JSON.items():
        answers = await both.ask(body)
        if [(status, problem["code"]) for status, problem in answers] != [(400, "malformed_json")] * 2:
            wrong.append((name, answers))
    for body in NO_OBJECT:
        answers = await both.ask(body)
        if [(status, problem["code"]) for status, problem in answers] != [(422, "invalid_request")] * 2:
            wrong.append((body.decode(), answers))
    assert not wrong, "\n".join(map(str, wrong))
    await assert_nothing_was_kept(ledger, database)


async def test_a_member_that_stands_twice_is_refused(
    ledger: Ledger, both: Both, database: "Database[asyncpg.Record]"
) -> None:
    """Readers disagree on which of the two counts: one that looks before us may see the other."""
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    for field, first, second in (("estimated_cost", '"0.9"', '"0.000000001"'), ("quantity", "5", "1")):
        body = written(field, f'{first}, "{field}": {second}')
        for status, problem in await both.ask(body):
            assert (status, problem.get("code")) == (422, "invalid_request"), problem
            assert [error["field"] for error in problem["errors"]] == [field]
    await assert_nothing_was_kept(ledger, database)


async def test_a_huge_body_is_refused_over_both_transports(
    ledger: Ledger, both: Both, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    padding = " " * 500_000
    for body in (written("quantity", f"1{padding}"), written("user_id", f'"{"a" * 500_000}"')):
        for status, problem in await both.ask(body):
            assert (status, problem.get("code")) == (413, "too_large"), str(problem)[:300]
    await assert_nothing_was_kept(ledger, database)


async def test_a_body_without_end_is_refused_before_its_end(ledger: Ledger) -> None:
    async def endless() -> Any:
        for _ in range(10_000):
            yield b" " * 65_536

    answer = await ledger.http.post("/v1/limit-checks", content=endless())
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


# --- holds ---

WRONG_EXTENSIONS: tuple[tuple[str, str], ...] = (
    *(("ttl_seconds", text) for text in ("0", "-1", str(TTL_SECONDS_MAX + 1), str(10**30), "1.0", '"60"', "true")),
    *(("ttl_seconds", text) for text in ("[]", "{}", NAN, INFINITY, HUGE)),
    *(("account_id", text) for text in ("1", '""', '"a b"', "[]", "true")),
    ("until", "1"),
    ("operation_id", f'"{builders.new_id()}"'),  # not the one in the path
)


async def test_a_wrong_extension_or_release_is_refused_and_the_hold_stays(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    asked = builders.check(estimated_cost="0.052", ttl_seconds=600)
    decision = await ledger.check(asked)
    wrong = []
    for verb, cases in (("extend", WRONG_EXTENSIONS), ("release", WRONG_EXTENSIONS[-7:])):
        for field, value in cases:
            answer = await ledger.http.post(
                f"/v1/reservations/{asked['operation_id']}:{verb}",
                content=f'{{"{field}": {value}}}'.encode(),
                headers={"content-type": "application/json"},
            )
            if not refused(answer, field):
                wrong.append((verb, field, value, answer.status_code, answer.text))
    assert not wrong, "\n".join(map(str, wrong))
    assert await database.fetchval("select count(*) from event_log where type like 'ledger.reservation.%'") == 1
    assert await database.fetchval("select state from decisions") == "held"
    expires_at = datetime.fromisoformat(decision["reservation"]["expires_at"])
    assert await database.fetchval("select expires_at from decisions") == expires_at
    longest = await ledger.extend(asked["operation_id"], ttl_seconds=TTL_SECONDS_MAX)
    ends = datetime.fromisoformat(longest.json()["expires_at"])
    assert ends - datetime.fromisoformat(decision["decided_at"]) < timedelta(seconds=TTL_SECONDS_MAX + 30)


def refused(answer: httpx.Response, field: str) -> bool:
    """A problem that names the field; or, where the text is no JSON in strict readers' eyes, says so."""
    if answer.headers["content-type"] != "application/problem+json":
        return False
    problem = answer.json()
    if (answer.status_code, problem["code"]) == (400, "malformed_json"):
        return True
    named = [error["field"] for error in problem["errors"]]
    return answer.status_code == 422 and bool(named) and all(name.startswith(field) for name in named)


# --- plans and accounts, beyond what test_ledger_api.py has ---


def wrong_plans() -> Iterator[tuple[str, str]]:
    """(field, body as JSON text)"""
    good = json.dumps(limit("spend"))

    def with_limit(field: str, value: str) -> str:
        broken = json.dumps({**limit("b"), field: "PLACE"}).replace('"PLACE"', value)
        return f'{{"name": "p", "limits": [{good}, {broken}]}}'

    for value in ("1", "null", "[]", '""', '"MINUTE"', '"minutes"', '"week"', '"year"', '"5m"'):
        yield "limits[1].window", with_limit("window", value)
    for value in ("1", "null", "[]", '""', '"Account"', '"key"', '"team"', '"account "'):
        yield "limits[1].scope", with_limit("scope", value)
    for value in ("1", "null", "[]", '""', '"HARD"', '"warn"'):
        yield "limits[1].mode", with_limit("mode", value)
    for value in ("1", "null", "[]", '""', '"images"', '"money"'):
        yield "limits[1].meter", with_limit("meter", value)
    for value in ("-1", "1.0", "1e3", NAN, INFINITY, HUGE, "null", "[]", "{}", '"1"', str(10**30), "true"):
        yield "limits[1].maximum", with_limit("maximum", value)
    for value in ("null", "[]", '"x"', "1", '{"operation": null}', '{"operation": [1]}', '{"provider": [null]}'):
        yield "limits[1].selector", with_limit("selector", value)
    for value in ("1", "null", "[]", '""', '"a b"', '"a/b"', '"ä"'):
        yield "limits[1].limit_id", with_limit("limit_id", value)
    for value in ("null", "{}", '"x"', "1", "[1]", "[null]", "[[]]", '["x"]'):
        yield "limits", f'{{"name": "p", "limits": {value}}}'
    for value in ("null", "1", "[]", '""', f'"{"n" * 201}"', '"a\\u0000b"'):
        yield "name", f'{{"name": {value}, "limits": []}}'
    yield "limit", '{"name": "p", "limit": []}'


def wrong_accounts() -> Iterator[tuple[str, str]]:
    for value in ("1", "null", "[]", '""', '"a b"', "{}", "true"):
        yield "plan_id", f'{{"plan_id": {value}}}'
    for value in ("1", "null", "[]", '""', '"utc "', '"CEST"', '"+01:00"', '"UTC+1"', '"Europe/berlin\\n"', "0"):
        yield "time_zone", f'{{"plan_id": "basic", "time_zone": {value}}}'
    for value in (
        "1",
        "null",
        "[]",
        '""',
        '"2026-11"',
        '"2026-13-01"',
        '"01.11.2026"',
        '"2026-11-01T00:00:00Z"',
        "0.5",
    ):
        yield "billing_anchor", f'{{"plan_id": "basic", "billing_anchor": {value}}}'


async def test_a_wrong_plan_or_account_is_named_and_changes_nothing(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    wrong = []
    for path, cases in (("/v1/plans/basic", wrong_plans()), ("/v1/accounts/acme", wrong_accounts())):
        for field, body in cases:
            answer = await ledger.http.put(path, content=body.encode(), headers={"content-type": "application/json"})
            if not refused(answer, field):
                wrong.append((path, field, body, answer.status_code, answer.text))
    assert not wrong, "\n".join(map(str, wrong))
    assert (await ledger.http.get("/v1/plans/basic")).json()["version"] == 1
    assert (await ledger.http.get("/v1/accounts/acme")).json()["version"] == 1
    await assert_nothing_was_kept(ledger, database)


async def test_of_a_flood_of_wrong_members_the_first_hundred_are_named(ledger: Ledger) -> None:
    body = plan(limit("images")) | {f"n{index}": 1 for index in range(1_000)}
    answer = await ledger.http.put("/v1/plans/flood", json=body)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert "(and 999 more)" in answer.json()["detail"]


async def test_a_plan_with_a_member_that_stands_twice_is_refused(ledger: Ledger) -> None:
    body = json.dumps(plan(limit(maximum="PLACE"))).replace('"PLACE"', '0, "maximum": 1000')
    answer = await ledger.http.put(
        "/v1/plans/basic", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert refused(answer, "maximum"), answer.text
    assert (await ledger.http.get("/v1/plans/basic")).status_code == 404


@pytest.mark.parametrize("plan_id", ["a b", "a%2Fb", "%00", "ä", "a" * 129, "-a", "%0d%0a"])
async def test_a_plan_or_account_under_a_wrong_name_is_refused(ledger: Ledger, plan_id: str) -> None:
    for path, body in ((f"/v1/plans/{plan_id}", plan()), (f"/v1/accounts/{plan_id}", builders.account())):
        answer = await ledger.http.put(path, json=body)
        assert answer.status_code in (404, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_limit_that_names_more_than_a_counter_has_room_for_is_refused_and_harms_nobody_else(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    draw = random.Random(1)  # what does not shrink: PostgreSQL compresses long keys
    names = ["".join(draw.choices(string.ascii_letters + string.digits, k=n)) for n in [100] * 22 + [20]]
    longest = {"account_id": "a" * 128, "user_id": "u" * 128}
    fits = limit(scope="user", selector={"model": names}, maximum=9)
    await ledger.set_up(fits)
    await ledger.put_account(longest["account_id"])
    asked = builders.check(**longest, model=names[0])
    assert (await ledger.check(asked))["limits"][0]["held"] == 1

    too_much = {**fits, "selector": {"model": [*names, "x" * 100]}}
    for path, body, field in (
        ("/v1/plans/basic", plan(too_much), "limits[0].selector"),
        ("/v1/accounts/acme/limits/images", {"selector": too_much["selector"], "maximum": 1}, "selector"),
    ):
        answer = await ledger.http.put(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), answer.text

    # One of before it was refused: whoever is decided in the same transaction.
    too_much["selector"]["model"] = names + names[::-1] + [name[::-1] for name in names]
    await database.execute(
        "insert into plans (plan_id, version, body) values ('old', 1, $1::text::json)", json.dumps(plan(too_much))
    )
    await ledger.put_account("old", plan_id="old")
    checks = [builders.check(account_id=one, model=names[0]) for one in ("acme", "old", "acme")]
    answer = await ledger.http.post("/v1/limit-checks:batch", json={"checks": checks})
    assert [sorted(one) for one in answer.json()["results"]] == [["decision"], ["problem"], ["decision"]]
