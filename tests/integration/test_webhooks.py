"""Webhooks against a real receiver: what is sent, in which order, and what becomes of it when the receiver fails."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import nats
import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from contracts.notifications.kind import Feed
from ledger_service import administration, webhook_follow
from ledger_service.store.notifications import BEGINNING, read_facts
from ledger_service.store.webhooks import Figures, read_figures
from tests.builders import Body, check, completed, limit, new_id
from tests.receivers import ENDLESS, HANG, QUICK_WEBHOOKS, RESET, Receiver, receiving
from tests.servers import Databases, Ledger, as_service, eventually, remove_stream, renew_stream, serving

#: One ledger for all of them: each test has a receiver, an account and endpoints of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = ["limit.threshold_reached", "limit_check.denied", "period.closed"]
EVERYTHING = [*ALL, "dead_letter.opened", "source.hole_found"]
#: The schedule and the days of the real thing, as fractions of a second.
QUICK: dict[str, Any] = {
    **QUICK_WEBHOOKS,
    "webhook_timeout_seconds": 0.4,
    "webhook_retry_seconds": [0.05] * 2,
    "webhook_disable_seconds": 2.0,
    "hole_seconds": 0.2,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_url(databases: Databases) -> AsyncIterator[str]:
    with databases.cloned() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats_url(nats_server_url: str) -> AsyncIterator[str]:
    await renew_stream(nats_server_url)
    yield nats_server_url
    await remove_stream(nats_server_url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(database_url: str, nats_url: str) -> AsyncIterator[Ledger]:
    async with serving(database_url=as_service(database_url), nats_url=nats_url, **QUICK) as ledger:
        await ledger.put_plan(limit(maximum=0), limit("warned", maximum=10, thresholds=[50], mode="soft"))
        yield ledger


@pytest_asyncio.fixture(loop_scope="module")
async def account(running: Ledger) -> str:
    name = f"a-{new_id()}"
    await running.put_account(name)
    return name


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(running: Ledger, account: str) -> AsyncIterator[Ledger]:
    yield running
    for path in ("/v1/webhooks", f"/v1/accounts/{account}/webhooks"):
        for one in (await running.http.get(path)).json()["items"]:
            await running.http.delete(f"{path}/{one['webhook_id']}")


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def database(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def put(ledger: Ledger, url: str, *types: str, path: str = "/v1/webhooks/main", **fields: Any) -> Body:
    answer = await ledger.http.put(path, json={"url": url, "types": list(types or EVERYTHING), **fields})
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


async def deny(ledger: Ledger, account_id: str) -> str:
    """The operation that was denied."""
    asked = check(account_id=account_id)
    assert not (await ledger.check(asked))["allowed"]
    return str(asked["operation_id"])


async def seen(ledger: Ledger, path: str = "/v1/webhooks/main") -> Body:
    found: Body = (await ledger.http.get(path)).json()
    return found


async def deliveries(ledger: Ledger, path: str = "/v1/webhooks/main", **query: Any) -> list[Body]:
    answer = await ledger.http.get(f"{path}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    items: list[Body] = answer.json()["items"]
    return items


def operations(receiver: Receiver) -> list[str]:
    return [one.data["operation_id"] for one in receiver.taken]


async def publish(nats_url: str, body: bytes) -> None:
    connection = await nats.connect(nats_url)
    try:
        await connection.jetstream().publish("usage.v1.operation.completed", body)
    finally:
        await connection.close()


# --- what is told ---


async def test_each_kind_is_told_with_its_facts(
    ledger: Ledger, account: str, nats_url: str, receiver: Receiver
) -> None:
    await put(ledger, receiver.url())
    denied = await deny(ledger, account)
    await ledger.send(*(completed(account_id=account) for _ in range(6)))
    await ledger.http.put("/v1/periods/2020-01:close", json={"reason": "the books"})
    await ledger.http.put(f"/v1/accounts/{account}/periods/2020-02:close", json={"reason": "ours"})
    await publish(nats_url, b'{"no": "event"}')
    await ledger.send(
        *(completed(account_id=account, source="journal", sourcesequence=number) for number in (1, 2, 5, 9))
    )
    await eventually(lambda: len(receiver.taken) >= 7, "all of them are told")

    told: dict[str, list[Any]] = {}
    for one in receiver.taken:
        told.setdefault(one.payload["type"], []).append(one.data)
        assert set(one.payload) == {"type", "timestamp", "data"}
        assert one.payload["timestamp"].endswith("Z")
    assert sorted(told) == sorted(EVERYTHING)
    [refusal] = told["limit_check.denied"]
    assert (refusal["operation_id"], refusal["account_id"], refusal["limit_id"]) == (denied, account, "images")
    [threshold] = told["limit.threshold_reached"]
    assert (threshold["limit_id"], threshold["threshold_percent"], threshold["maximum"]) == ("warned", 50, 10)
    # Of two accounts, which have no order between them.
    closed = {(one["account_id"], one["period"]) for one in told["period.closed"]}
    assert closed == {(None, "2020-01-01"), (account, "2020-02-01")}
    assert len(told["period.closed"]) == 2
    [letter] = told["dead_letter.opened"]
    assert letter["code"] == "invalid_request"
    assert (await ledger.http.get(f"/v1/dead-letters/{letter['dead_letter_id']}")).status_code == 200
    holes = [(one["source"], one["first_sequence"], one["last_sequence"]) for one in told["source.hole_found"]]
    assert holes == [("journal", 3, 4), ("journal", 6, 8)]


async def test_an_account_gets_what_is_about_it_and_about_all(ledger: Ledger, account: str, receiver: Receiver) -> None:
    await ledger.put_account("other")
    own = f"/v1/accounts/{account}/webhooks/mine"
    await put(ledger, receiver.url(), *ALL, path=own)
    await deny(ledger, "other")
    mine = await deny(ledger, account)
    await ledger.http.put("/v1/periods/2020-03:close", json={"reason": "the books"})
    await eventually(lambda: len(receiver.taken) == 2, "both are told")
    assert operations_of(receiver, "limit_check.denied") == [mine]
    assert {one["account_id"] for one in await deliveries(ledger, own)} == {account}

    refused = await ledger.http.put(own, json={"url": receiver.url(), "types": ["dead_letter.opened"]})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "types[0]")


def operations_of(receiver: Receiver, kind: str) -> list[str]:
    return [one.data["operation_id"] for one in receiver.taken if one.payload["type"] == kind]


async def test_the_same_letter_is_told_once_until_it_is_closed_and_comes_again(
    ledger: Ledger, receiver: Receiver, nats_url: str
) -> None:
    await put(ledger, receiver.url(), "dead_letter.opened")
    bytes_of_it = b'{"no": "other event"}'
    await publish(nats_url, bytes_of_it)
    await publish(nats_url, bytes_of_it)
    await eventually(lambda: receiver.taken, "it is told")
    letter = receiver.taken[0].data["dead_letter_id"]
    because = {"author": "tests", "reason": "none"}
    assert (await ledger.http.post(f"/v1/dead-letters/{letter}:discard", json=because)).status_code == 200
    await publish(nats_url, bytes_of_it)
    await eventually(lambda: len(receiver.taken) == 2, "it is told again")
    assert len(set(receiver.ids())) == 2
    assert receiver.taken[1].data["dead_letter_id"] == letter


async def test_what_was_before_an_endpoint_is_not_sent_by_itself(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    before = datetime.now(UTC)
    early = await deny(ledger, account)
    await asyncio.sleep(0.05)
    await put(ledger, receiver.url(), "limit_check.denied")
    late = await deny(ledger, account)
    await eventually(lambda: operations(receiver) == [late], "the later one is told")
    again = await ledger.http.post("/v1/webhooks/main:redeliver", json={"from": before.isoformat()})
    assert again.json() == {"queued": 1, "next_cursor": None}
    await eventually(lambda: operations(receiver) == [late, early], "the earlier one, as asked for")


async def test_the_log_is_read_in_commit_order_a_few_rows_at_a_time(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Transactions are numbers: 9 is before 10, and 10 before 100, also where a portion ends between them."""
    transaction = database.transaction()
    await transaction.start()
    await database.executemany(
        "insert into event_log (account_id, event_id, type, terminal, source, occurred_at, transaction_id, body)"
        " values ('order', $1, 'ledger.account.changed.v1', false, 'ledger', now(), $2::text::xid8, '{\"data\": {}}')",
        [(UUID(new_id()), number) for number in ("100", "9", "10", "11", "99")],
    )
    place, read = BEGINNING, list[int]()
    while facts := await read_facts(database, Feed.LOG, place, 2):
        place = facts[-1].place
        read += [fact.place.transaction_id for fact in facts]
    await transaction.rollback()
    assert read[:5] == [9, 10, 11, 99, 100]
    assert read == sorted(read)


# --- how it is signed ---


async def test_deliveries_are_signed_as_the_reference_verifies_them(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    secret = (await put(ledger, receiver.url(), "limit_check.denied"))["secret"]
    await deny(ledger, account)
    await eventually(lambda: receiver.taken, "it is told")
    [first] = receiver.taken
    assert Webhook(secret).verify(first.body, first.headers) == first.payload
    assert first.headers["content-type"] == "application/json"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(secret).verify(first.body + b" ", first.headers)

    rotated = (await ledger.http.post("/v1/webhooks/main:rotate-secret", json={})).json()
    assert rotated["secret"] != secret
    await deny(ledger, account)
    await eventually(lambda: len(receiver.taken) == 2, "both secrets sign")
    second = receiver.taken[1]
    assert len(second.headers["webhook-signature"].split(" ")) == 2
    for valid in (secret, rotated["secret"]):
        Webhook(valid).verify(second.body, second.headers)

    at_once = (await ledger.http.post("/v1/webhooks/main:rotate-secret", json={"overlap_seconds": 0})).json()
    await deny(ledger, account)
    await eventually(lambda: len(receiver.taken) == 3, "the newest one signs")
    third = receiver.taken[2]
    Webhook(at_once["secret"]).verify(third.body, third.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(rotated["secret"]).verify(third.body, third.headers)


async def test_the_secret_is_shown_once_and_is_nowhere_else(
    ledger: Ledger,
    account: str,
    receiver: Receiver,
    database: "asyncpg.Connection[asyncpg.Record]",
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = await ledger.http.put("/v1/webhooks/main", json={"url": receiver.url(), "types": ALL})
    assert first.headers["cache-control"] == "no-store"
    secret = first.json()["secret"]
    again = await put(ledger, receiver.url(), *ALL)
    assert (again["secret"], again["version"]) == (None, 1)
    given = "whsec_" + "A" * 32
    assert (await put(ledger, receiver.url(), *ALL, path="/v1/webhooks/given", secret=given))["secret"] is None
    refused = await ledger.http.put("/v1/webhooks/main", json={"url": receiver.url(), "types": ALL, "secret": given})
    assert refused.json()["errors"][0]["field"] == "secret"
    rotated = (await ledger.http.post("/v1/webhooks/main:rotate-secret", json={})).json()["secret"]
    await deny(ledger, account)
    await eventually(lambda: receiver.taken, "it is told")
    reads = [
        (await ledger.http.get(path)).text
        for path in ("/v1/webhooks", "/v1/webhooks/main", "/v1/webhooks/main/deliveries", "/v1/changes")
    ]
    reads += [row["body"] for row in await database.fetch("select body::text from event_log")]
    reads += capfd.readouterr()
    for one in (secret, given, rotated):
        assert not any(one.removeprefix("whsec_") in text for text in reads)
    changes = (await ledger.http.get("/v1/changes")).json()["items"]
    assert [one["type"] for one in changes][:3] == [
        "ledger.webhook.secret_rotated.v1",
        "ledger.webhook.changed.v1",
        "ledger.webhook.changed.v1",
    ]
    assert changes[0]["author"]["kind"] == "api_key"


@pytest.mark.parametrize("secret", ["whsec_", "whsec_AAAA", "A" * 40, "whsec_!!!!", "whsec_" + "A" * 88 + "AAAA"])
async def test_a_secret_that_is_none_is_refused(ledger: Ledger, receiver: Receiver, secret: str) -> None:
    body = {"url": receiver.url(), "types": ALL, "secret": secret}
    refused = await ledger.http.put("/v1/webhooks/main", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "secret")
    assert secret not in refused.text or secret == "whsec_"


async def test_nothing_goes_out_unsigned(
    ledger: Ledger, account: str, receiver: Receiver, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """As of an endpoint that is removed just after somebody took what waits for it."""
    await put(ledger, receiver.url("/removed"), "limit_check.denied")
    await database.execute("delete from webhook_secrets")
    await put(ledger, receiver.url("/there"), "limit_check.denied", path="/v1/webhooks/other")
    for _ in range(3):
        await deny(ledger, account)
    await eventually(lambda: len(receiver.taken) == 3, "they arrive where they can be signed")
    assert {one.path for one in receiver.requests} == {"/there"}


# --- receivers that fail ---


@pytest.mark.parametrize(
    ("failure", "status", "error"),
    [
        (500, 500, None),
        (404, 404, None),
        ((302, {"Location": "http://127.0.0.1:1/private"}), 302, "redirects are not followed: 302"),
        ((503, {"Retry-After": "Thu, 05 Nov 99999999999999999999 12:00:00 GMT"}), 503, None),
        (HANG, None, "no whole answer within 0.4 s"),
        (RESET, None, "the connection was cut off before an answer"),
    ],
    ids=["500", "404", "redirect", "no_date", "hang", "reset"],
)
async def test_what_fails_is_sent_again_in_order_and_each_attempt_is_there(
    ledger: Ledger, account: str, receiver: Receiver, failure: Any, status: int | None, error: str | None
) -> None:
    receiver.script.extend([failure, failure])
    await put(ledger, receiver.url(), "limit_check.denied")
    denied = [await deny(ledger, account) for _ in range(3)]
    await eventually(lambda: len(receiver.taken) == 3, "all of them arrive")
    assert operations(receiver) == denied
    assert receiver.ids()[0] == receiver.ids()[1] == receiver.ids()[2]
    assert {one.path for one in receiver.requests} == {"/hook"}
    await eventually(lambda: _states(ledger, ["delivered"] * 3), "their outcome is kept")
    listed = await deliveries(ledger)
    assert [one["attempts"] for one in listed] == [1, 1, 3]
    one = (await ledger.http.get(f"/v1/webhooks/main/deliveries/{receiver.ids()[0]}")).json()
    assert [(each["attempt"], each["status"], each["error"]) for each in one["tries"]] == [
        (3, 200, None),
        (2, status, error),
        (1, status, error),
    ]
    assert one["tries"][0]["answer"] == "answer 200"
    assert json.loads(one["payload"])["data"]["operation_id"] == denied[0]


async def _states(ledger: Ledger, wanted: list[str], path: str = "/v1/webhooks/main") -> bool:
    return [one["state"] for one in await deliveries(ledger, path)] == wanted


async def test_an_answer_without_end_is_read_a_little(ledger: Ledger, account: str, receiver: Receiver) -> None:
    receiver.otherwise = ENDLESS
    await put(ledger, receiver.url(), "limit_check.denied")
    await deny(ledger, account)
    await eventually(lambda: _states(ledger, ["delivered"]), "the status was 200")
    one = (await ledger.http.get(f"/v1/webhooks/main/deliveries/{receiver.ids()[0]}")).json()
    assert len(one["tries"][0]["answer"]) == 512


async def test_an_account_whose_deliveries_hang_holds_up_no_other(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    await put(ledger, receiver.url(), "limit_check.denied")
    await ledger.put_account("fine")
    receiver.of_account[account] = HANG
    first, second = await deny(ledger, account), await deny(ledger, account)
    await eventually(lambda: receiver.requests, "the first one is on its way")
    passed = [await deny(ledger, "fine") for _ in range(5)]
    await eventually(lambda: len(receiver.taken) == 5, "the others arrive meanwhile", within_seconds=5)
    assert operations(receiver) == passed
    assert {one.data["operation_id"] for one in receiver.requests if one.answered == HANG} == {first}
    receiver.of_account.clear()
    await eventually(lambda: operations(receiver)[5:] == [first, second], "then the others, in order")


async def test_an_endpoint_that_answers_500_for_a_day_gives_way_and_is_disabled(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    receiver.otherwise = 500
    await put(ledger, receiver.url(), "limit_check.denied")
    first, second = await deny(ledger, account), await deny(ledger, account)
    await eventually(lambda: _states(ledger, ["failed", "failed"]), "each was tried three times")
    assert [one.data["operation_id"] for one in receiver.requests] == [first] * 3 + [second] * 3
    assert (await seen(ledger))["state"]["failing_since"] is not None

    await asyncio.sleep(2.0)
    third = await deny(ledger, account)
    await eventually(lambda: _disabled(ledger), "it took nothing for so long")
    found = await seen(ledger)
    assert (found["disabled_reason"], found["state"]["pending"]) == ("failing", 1)
    [change] = (await ledger.http.get("/v1/changes", params={"type": "ledger.webhook.disabled.v1"})).json()["items"]
    assert change["author"] == {"kind": "system", "id": "ledger", "name": None, "issuer": None}
    metrics = (await ledger.http.get("/metrics")).text
    assert 'ledger_webhook_deliveries_total{outcome="given_up"} 2' in metrics

    receiver.otherwise = 200
    await put(ledger, receiver.url(), "limit_check.denied")
    await eventually(lambda: operations(receiver) == [third], "what was pending goes on")
    since = datetime.fromisoformat(found["since"])
    again = await ledger.http.post("/v1/webhooks/main:redeliver", json={"from": since.isoformat()})
    assert again.json()["queued"] == 2
    await eventually(lambda: operations(receiver)[1:] == [first, second], "and so does what failed")


async def _disabled(ledger: Ledger) -> bool:
    return (await seen(ledger))["disabled_at"] is not None


async def test_gone_is_disabled_at_once(ledger: Ledger, account: str, receiver: Receiver) -> None:
    receiver.otherwise = 410
    await put(ledger, receiver.url(), "limit_check.denied")
    await deny(ledger, account)
    await eventually(lambda: _disabled(ledger), "it is gone")
    assert (await seen(ledger))["disabled_reason"] == "gone"
    await deny(ledger, account)
    await asyncio.sleep(0.3)
    assert len(receiver.requests) == 1


async def test_a_paused_endpoint_keeps_its_queue_and_resumes_in_order(
    ledger: Ledger, account: str, receiver: Receiver, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    receiver.otherwise = (503, {"Retry-After": "3600"})
    await put(ledger, receiver.url(), "limit_check.denied")
    denied = [await deny(ledger, account)]
    await eventually(lambda: receiver.requests, "it is on its way when the pause begins")
    paused = (await ledger.http.post("/v1/webhooks/main:pause")).json()
    assert (paused["disabled_reason"], paused["version"], paused["since"]) == (
        "paused",
        2,
        (await seen(ledger))["since"],
    )
    assert (await ledger.http.post("/v1/webhooks/main:pause")).json()["version"] == 2
    receiver.otherwise = 200
    denied += [await deny(ledger, account) for _ in range(2)]
    await eventually(lambda: _pending(ledger, 3), "what happens meanwhile is queued")
    # Neither what asks for a delivery nor who puts the same endpoint again, with another address, ends the pause.
    again = await ledger.http.post(f"/v1/webhooks/main/deliveries/{receiver.ids()[0]}:redeliver")
    assert again.status_code == 200
    changed = await put(ledger, receiver.url("/elsewhere"), "limit_check.denied")
    assert (changed["disabled_reason"], changed["version"]) == ("paused", 3)
    figures = await read_figures(database)
    assert figures == (Figures(0, 1, 0, 0), Figures(0, 0, 0, 0))
    await asyncio.sleep(0.3)
    assert len(receiver.requests) == 1

    resumed = (await ledger.http.post("/v1/webhooks/main:resume")).json()
    assert (resumed["disabled_at"], resumed["disabled_reason"], resumed["since"]) == (None, None, paused["since"])
    assert resumed["state"]["failing_since"] is None
    await eventually(lambda: operations(receiver) == denied, "all of it, in order")
    assert receiver.taken[0].path == "/elsewhere"
    assert (await ledger.http.post("/v1/webhooks/main:resume")).json()["version"] == 4
    changes = (await ledger.http.get("/v1/changes")).json()["items"][:3]
    kinds = ["ledger.webhook.changed.v1", "ledger.webhook.changed.v1", "ledger.webhook.disabled.v1"]
    assert [(one["type"], one["author"]["kind"]) for one in changes] == [(kind, "api_key") for kind in kinds]


async def _pending(ledger: Ledger, wanted: int) -> bool:
    return bool((await seen(ledger))["state"]["pending"] == wanted)


async def test_what_is_off_for_a_failure_is_not_paused_but_resumed(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    assert (await ledger.http.post("/v1/webhooks/main:pause")).status_code == 404
    receiver.script.append(410)
    await put(ledger, receiver.url(), "limit_check.denied")
    denied = await deny(ledger, account)
    await eventually(lambda: _disabled(ledger), "it is gone")
    refused = await ledger.http.post("/v1/webhooks/main:pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_disabled")
    assert (await ledger.http.post("/v1/webhooks/main:resume")).json()["disabled_at"] is None
    await eventually(lambda: operations(receiver) == [denied], "what was pending goes on")


async def test_retry_after_is_waited_for(ledger: Ledger, account: str, receiver: Receiver) -> None:
    receiver.script.append((503, {"Retry-After": "1"}))
    await put(ledger, receiver.url(), "limit_check.denied")
    await deny(ledger, account)
    await eventually(lambda: receiver.taken, "it is tried again")
    assert receiver.requests[1].at - receiver.requests[0].at >= 1.0


# --- endpoints that are changed ---


async def test_what_waits_goes_to_another_address_at_once(ledger: Ledger, account: str, receiver: Receiver) -> None:
    receiver.otherwise = (503, {"Retry-After": "3600"})
    await put(ledger, receiver.url(), "limit_check.denied")
    denied = [await deny(ledger, account) for _ in range(2)]
    await eventually(lambda: receiver.requests, "it is tried")
    async with receiving() as other:
        await put(ledger, other.url(), "limit_check.denied")
        await eventually(lambda: operations(other) == denied, "both arrive where it is now")
    assert (await seen(ledger))["state"]["failing_since"] is None


async def test_an_answer_of_the_address_before_says_nothing_of_this_one(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def is_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await may_answer.wait()
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(is_gone, "127.0.0.1", 0) as before:
        await put(ledger, f"http://127.0.0.1:{before.sockets[0].getsockname()[1]}/", "limit_check.denied")
        denied = await deny(ledger, account)
        await asked.wait()
        await put(ledger, receiver.url(), "limit_check.denied")
        may_answer.set()
        await eventually(lambda: operations(receiver) == [denied], "it arrives where it is now")
    assert (await seen(ledger))["disabled_at"] is None


async def test_a_type_that_is_added_loses_none_of_the_others(
    ledger: Ledger, account: str, receiver: Receiver, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await put(ledger, receiver.url(), "limit_check.denied")
    async with database.transaction():
        # Whoever queues what is new passes this feed by meanwhile.
        await database.execute(
            "select from notification_cursors where follower = 'webhooks' and feed = 'log' for update"
        )
        denied = await deny(ledger, account)
        await put(ledger, receiver.url(), "limit_check.denied", "period.closed")
    await eventually(lambda: operations(receiver) == [denied], "it is told all the same")


async def test_what_happens_after_an_endpoint_is_told_whatever_time_it_is_here(
    ledger: Ledger, account: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(hours=1))
    monkeypatch.setattr(administration, "datetime", ahead)
    await put(ledger, receiver.url(), "limit_check.denied")
    denied = await deny(ledger, account)
    await eventually(lambda: operations(receiver) == [denied], "it is told")


# --- again, and trials ---


async def test_how_long_it_fails_goes_by_the_clock_of_the_database(
    ledger: Ledger, account: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ledger, whose clock is a day ahead, takes over."""
    receiver.script.extend([500])
    receiver.otherwise = HANG
    await put(ledger, receiver.url(), "limit_check.denied")
    before = datetime.now(UTC)
    await deny(ledger, account)
    await eventually(lambda: len(receiver.requests) == 2, "it is tried again")
    ahead = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(days=1))
    monkeypatch.setattr("ledger_service.workers.webhooks.datetime", ahead)
    await eventually(lambda: _states(ledger, ["failed"]), "it was tried as often as it is tried")
    state = (await seen(ledger))["state"]
    for name in ("failing_since", "last_failed_at"):
        assert before <= datetime.fromisoformat(state[name]) <= datetime.now(UTC), name
    assert not await _disabled(ledger)


async def test_a_request_to_send_again_looks_at_so_many_facts(
    ledger: Ledger, account: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that are from before the moment: there may be millions."""
    monkeypatch.setattr(webhook_follow, "REDELIVERED_MAX", 1)
    await put(ledger, receiver.url(), "limit_check.denied")
    await deny(ledger, account)
    await eventually(lambda: receiver.taken, "it is told")
    path, asked = "/v1/webhooks/main:redeliver", {"from": "2199-01-01T00:00:00Z"}
    first = (await ledger.http.post(path, json=asked)).json()
    assert first == {"queued": 0, "next_cursor": "letters.0.0"}
    rest = await ledger.http.post(path, json={**asked, "cursor": first["next_cursor"]})
    assert rest.json()["queued"] == 0


async def test_deliveries_are_listed_by_state_and_page_and_sent_again(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    own = f"/v1/accounts/{account}/webhooks/main"
    await put(ledger, receiver.url(), "limit_check.denied", path=own)
    denied = [await deny(ledger, account) for _ in range(5)]
    await eventually(lambda: _states(ledger, ["delivered"] * 5, own), "all arrive")
    pages, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await ledger.http.get(f"{own}/deliveries", params=query)).json()
        pages += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [one["message_id"] for one in pages] == receiver.ids()[::-1]
    assert await deliveries(ledger, own, state="pending") == []
    assert len(await deliveries(ledger, own, about=account, type="limit_check.denied")) == 5

    path = f"{own}/deliveries/{receiver.ids()[2]}"
    assert (await ledger.http.post(f"{path}:redeliver")).status_code == 200
    await eventually(lambda: len(receiver.taken) == 6, "it is sent once more")
    await eventually(lambda: _states(ledger, ["delivered"] * 5, own), "its outcome is kept")
    assert (receiver.ids()[5], operations(receiver)[5]) == (receiver.ids()[2], denied[2])
    everything = {"from": "2026-01-01T00:00:00Z", "delivered": True}
    again = await ledger.http.post(f"{own}:redeliver", json=everything)
    assert again.json()["queued"] == 5
    await eventually(lambda: operations(receiver)[6:] == denied, "all of them, in order")


async def test_a_trial_says_whether_it_is_there(ledger: Ledger, receiver: Receiver) -> None:
    secret = (await put(ledger, receiver.url(), "period.closed"))["secret"]
    made = (await ledger.http.post("/v1/webhooks/main:test")).json()
    await eventually(lambda: receiver.taken, "it arrives")
    assert receiver.taken[0].payload["type"] == "webhook.test"
    assert receiver.taken[0].message_id == made["message_id"]
    Webhook(secret).verify(receiver.taken[0].body, receiver.taken[0].headers)


async def test_a_removed_endpoint_gets_nothing_and_its_name_is_free(
    ledger: Ledger, account: str, receiver: Receiver, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    first = await put(ledger, receiver.url(), "limit_check.denied")
    receiver.otherwise = 500
    await deny(ledger, account)
    await eventually(lambda: receiver.requests, "it is tried")
    assert (await ledger.http.delete("/v1/webhooks/main")).status_code == 200
    for path in ("/v1/webhooks/main", "/v1/webhooks/main/deliveries"):
        assert (await ledger.http.get(path)).status_code == 404
    assert await database.fetchval("select count(*) from webhook_secrets") == 0
    receiver.otherwise = 200
    second = await put(ledger, receiver.url(), "limit_check.denied")
    assert second["endpoint_id"] != first["endpoint_id"]
    new = await deny(ledger, account)
    await eventually(lambda: operations(receiver) == [new], "only what is new")


# --- where it may not go ---


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/x",
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://user:secret@hooks.example.com/x",
        "ftp://hooks.example.com/x",
        "https:///x",
        "https://hooks.example.com/#x",
        "https://hooks.example.com:0/x",
        "https://hooks.example.com:65536/x",
        "https://[fec0::1]/x",
        "nothing",
    ],
)
async def test_addresses_that_may_not_be_sent_to_are_refused_at_once(ledger: Ledger, url: str) -> None:
    refused = await ledger.http.put("/v1/webhooks/main", json={"url": url, "types": ALL})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "url"), refused.text


async def test_a_name_that_leads_into_a_private_network_is_never_connected_to(
    ledger: Ledger, account: str, receiver: Receiver
) -> None:
    await put(ledger, f"https://localhost:{receiver.port}/hook", "limit_check.denied")
    await deny(ledger, account)
    await eventually(lambda: _error(ledger), "it is tried")
    assert await _error(ledger) == "localhost leads into a private network"
    assert receiver.open_max == 0


async def _error(ledger: Ledger) -> str | None:
    error: str | None = (await seen(ledger))["state"]["last_error"]
    return error
