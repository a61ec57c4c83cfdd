"""Read your writes: whoever wrote is told a position, and a reader who demands it sees what was written."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts.subjects import POSITION_HEADER, RECORDED, subject_of
from ledger_service.config import Settings
from ledger_service.looks import LOOKS_MAX
from ledger_service.main import create_app
from ledger_service.workers.freshness import Freshness
from tests import builders
from tests.builders import ACCOUNT, Body, adjustment, at, completed, limit
from tests.nats_flush import flushed
from tests.servers import Ledger, eventually

USAGE = f"/v1/accounts/{ACCOUNT}/usage"
HEADERS = {"ledger-position", "ledger-read-at", "ledger-lag-seconds"}
#: Reads of what is about no moment of the log, and why.
OF_NO_MOMENT = {
    "/v1/dead-letters": "what is not in the log",
    "/v1/dead-letters/{dead_letter_id}": "what is not in the log",
    "/v1/operations:in-doubt": "what is in doubt now",
    "/v1/operations:recent": "what happened last",
    "/v1/operations:stream": "what happens from now on",
    "/v1/seals": "a seal is of a size of the log, which it names",
    "/v1/seals/key": "a key",
    "/v1/seals/{size}": "a seal is of a size of the log, which it names",
    "/v1/seals:consistency": "from one size to another",
    "/v1/usage-log/{operation_id}/proof": "of a size, which it names",
    "/v1/usage/dimensions": "settings",
    "/v1/sources": "which numbers came until now",
    "/v1/status": "how the ledger itself stands, now",
    "/v1/tokens": "who may call now",
    "/v1/limits:nearest": "of a moment some seconds ago, which it names",
    **{
        f"{prefix}/webhooks{rest}": "how deliveries go now; what was put, and when, is in /v1/changes"
        for prefix in ("/v1", "/v1/accounts/{account_id}")
        for rest in (
            "",
            "/{webhook_id}",
            "/{webhook_id}/deliveries",
            "/{webhook_id}/deliveries/{message_id}",
        )
    },
}


async def test_every_write_tells_a_position_that_its_reader_can_demand(ledger: Ledger) -> None:
    event = completed(time=at("2026-09-05"))
    writes: list[tuple[str, str, Body | None]] = [
        ("PUT", f"/v1/plans/{builders.PLAN}", builders.plan(limit(), limit("credit", credit=True, window="lifetime"))),
        ("PUT", f"/v1/accounts/{ACCOUNT}", builders.account()),
        ("PUT", f"/v1/accounts/{ACCOUNT}/limits/images", {"maximum": 7, "reason": "asked for"}),
        ("DELETE", f"/v1/accounts/{ACCOUNT}/limits/images", None),
        (
            "PUT",
            f"/v1/accounts/{ACCOUNT}/credit-grants/g",
            {"limit_id": "credit", "amount": 5, "valid_from": "2026-01-01T00:00:00Z"},
        ),
        ("DELETE", f"/v1/accounts/{ACCOUNT}/credit-grants/g", None),
        (
            "PUT",
            "/v1/prices/local/generate/render-1",
            {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"when": {}, "price": "0.01"}]},
        ),
        ("POST", "/v1/events", event),
        ("POST", "/v1/adjustments", adjustment("void", event)),
        ("PUT", f"/v1/accounts/{ACCOUNT}/periods/2026-09:close", {"reason": "the books"}),
        ("PUT", "/v1/periods/2026-08:close", {"reason": "the books"}),
        ("PUT", "/v1/webhooks/w", {"url": "https://hooks.example.com/w", "types": ["period.closed"]}),
        ("DELETE", "/v1/webhooks/w", None),
    ]
    last = 0
    for method, url, body in writes:
        answer = await ledger.http.request(method, url, json=body)
        assert answer.status_code == 200, (url, answer.text)
        position = int(answer.headers[POSITION_HEADER])
        assert position > last, url
        last = position
        read = await ledger.http.get("/v1/changes", params={"min_position": str(position), "wait_seconds": "0"})
        assert read.status_code == 200, (url, read.text)
        assert int(read.headers[POSITION_HEADER]) >= position


async def test_a_write_that_changes_nothing_tells_a_position_that_has_it(ledger: Ledger) -> None:
    event = completed()
    first = await ledger.send_one(event)
    again = await ledger.send_one(event)
    assert int(again.headers[POSITION_HEADER]) >= int(first.headers[POSITION_HEADER])
    closing: dict[str, Any] = {"url": "/v1/periods/2026-08:close", "json": {"reason": "the books"}}
    positions = [int((await ledger.http.put(**closing)).headers[POSITION_HEADER]) for _ in range(2)]
    assert positions == sorted(positions)


async def test_what_could_not_be_recorded_has_no_position(ledger: Ledger) -> None:
    answer = await ledger.send_one(b"{}")
    assert answer.status_code == 422
    assert POSITION_HEADER not in answer.headers


async def test_a_producer_on_nats_is_told_the_position_with_the_confirmation(ledger: Ledger, nats_client: Nats) -> None:
    heard: list[Msg] = []

    async def on_message(message: Msg) -> None:
        heard.append(message)

    await nats_client.subscribe(RECORDED, cb=on_message)
    await flushed(nats_client)
    event = completed(source="journal", sourcesequence=1)
    await nats_client.jetstream().publish(subject_of(event["type"]), json.dumps(event).encode())
    await eventually(lambda: any(POSITION_HEADER in (one.headers or {}) for one in heard), "the position is told")
    [position] = {one.headers[POSITION_HEADER] for one in heard if one.headers}
    read = await ledger.http.get(USAGE, params={"min_position": position})
    assert read.json()["totals"]["calls"] == 1


async def test_an_answer_says_when_it_was_read_and_how_far_behind_it_may_be(ledger: Ledger) -> None:
    await ledger.send(completed())

    async def answered() -> httpx.Response:
        answer = await ledger.http.get(USAGE)
        assert answer.status_code == 200
        return answer

    async def is_known() -> bool:
        return (await answered()).headers.keys() >= HEADERS

    await eventually(is_known, "the ledger has looked at the stream")
    answer = await answered()
    assert 0 <= float(answer.headers["ledger-lag-seconds"]) < 10
    age = datetime.now(UTC) - datetime.fromisoformat(answer.headers["ledger-read-at"])
    assert abs(age) < timedelta(seconds=10)


class _NoNats:
    """Freshness asks for JetStream when it is made, and looks at nothing unless it is told to."""

    def jetstream(self, timeout: float) -> None:
        assert timeout > 0


def test_the_log_is_as_fresh_as_the_last_look_of_which_all_is_acknowledged() -> None:
    freshness = Freshness(_NoNats())  # type: ignore[arg-type]  # see there

    def saw(looked_at: float, last: int, acknowledged: int) -> float | None:
        freshness.saw(looked_at, last, acknowledged)
        return freshness.complete_at

    assert saw(1.0, last=10, acknowledged=9) is None
    assert saw(2.0, last=20, acknowledged=10) == 1.0
    assert saw(3.0, last=20, acknowledged=19) == 1.0
    assert saw(4.0, last=30, acknowledged=20) == 3.0
    for step in range(3 * LOOKS_MAX):
        assert saw(5.0 + step, last=31 + step, acknowledged=20) == 3.0
    assert saw(5000.0, last=9000, acknowledged=9000) == 5000.0


def test_every_read_takes_a_moment_or_says_why_not() -> None:
    document = create_app(Settings()).openapi()
    reads = {path: one["get"] for path, one in document["paths"].items() if "get" in one and path.startswith("/v1/")}
    for path, read in reads.items():
        taken = {one["name"] for one in read.get("parameters", ())} & {"as_of", "min_position", "wait_seconds"}
        assert len(taken) == (0 if path in OF_NO_MOMENT else 3), path
        if taken:
            assert "Ledger-Position" in read["responses"]["200"]["headers"], path
            assert "position_not_reached" in read["responses"]["503"]["description"], path
    assert OF_NO_MOMENT.keys() <= reads.keys()


@pytest.mark.parametrize("path", [USAGE, "/v1/prices", "/v1/dead-letters", "/v1/seals"])
async def test_a_parameter_that_a_read_does_not_know_is_refused(ledger: Ledger, path: str) -> None:
    """Passed over in silence, a misspelt as_of would look obeyed; so would one where there is no past."""
    names = ["asof", "AS_OF"] + (["as_of", "min_position"] if path in OF_NO_MOMENT else [])
    for name in names:
        answer = await ledger.http.get(path, params={name: "2026-11-01T00:00:00Z"})
        problem = answer.json()
        assert (answer.status_code, problem["errors"][0]["field"]) == (422, f"query.{name}"), problem


async def test_what_came_late_is_seen_as_such(ledger: Ledger) -> None:
    early, late = completed(), completed(time=at("2026-09-05"), cost="0.25")
    await ledger.send(early, late)
    shown = {item["operation_id"]: item for item in (await ledger.usage_log())["items"]}
    assert [shown[one["data"]["operation_id"]]["late"] for one in (early, late)] == [False, True]
    assert shown[late["data"]["operation_id"]]["lag_seconds"] > 86_400

    before = datetime.now(UTC) + timedelta(seconds=1)
    usage = await ledger.usage(period="2026-09", late_after="2026-10-01T00:00:00Z")
    assert usage["late"] == usage["totals"] == {"calls": 1, "units": 1, "cost": "0.250000000", "failures": 0}
    assert (await ledger.usage(period="2026-09", late_after=before.isoformat()))["late"]["calls"] == 0
    assert "late" not in await ledger.usage(period="2026-09")


def test_routes_of_this_file_exist() -> None:
    paths = {route.path for route in create_app(Settings()).routes if isinstance(route, APIRoute)}
    assert paths >= OF_NO_MOMENT.keys()
