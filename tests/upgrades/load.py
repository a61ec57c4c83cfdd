"""Customers of ledgers that go on while these are replaced, and what must be true of the books afterwards."""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import httpx
import nats
from nats.aio.client import Client

from contracts.events import CONTENT_TYPE
from contracts.subjects import subject_of
from tests import builders
from tests.builders import Body
from tests.containers.load import Load
from tests.property.projections import assert_projections_agree, replayed
from tests.servers import eventually
from tests.upgrades.fleet import Fleet

PAUSE_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 0.1
GIVE_UP_SECONDS: Final = 90.0
#: Longer than the ingest consumer's ack wait: what a killed ledger had taken is delivered again only after that.
QUIET_SECONDS: Final = 90.0
SETTLED: Final = "select 1 from decisions where state = 'held' and expires_at < clock_timestamp()"


@dataclass
class Direct:
    """Checks over HTTP at any ledger, and outcomes over HTTP and NATS: each is repeated until somebody has answered."""

    fleet: Fleet
    http: httpx.AsyncClient
    producer: Client
    account_ids: tuple[str, ...]
    #: By operation: what was asked, and what was answered.
    decisions: dict[str, tuple[Body, Body]] = field(default_factory=dict)
    #: That were taken, by their ids.
    events: dict[str, Body] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def run(self, clients: int, until: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(until))

    async def _client(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.work(next(self._numbers))
            await asyncio.sleep(PAUSE_SECONDS)

    async def work(self, number: int) -> None:
        account_id = self.account_ids[number % len(self.account_ids)]
        asked = builders.check(account_id=account_id, user_id=f"direct-{number}", estimated_cost="0.04")
        decision = await self.check(asked)
        if not decision["allowed"]:
            return
        if number % 5 == 4:
            self.released.add(asked["operation_id"])
            await self._post(f"/v1/reservations/{asked['operation_id']}:release", b"", {})
            return
        kind = builders.completed
        if number % 7 == 6:
            kind = builders.failed
            self.released.add(asked["operation_id"])  # nothing is owed
        for event in (builders.requested(asked), kind(asked)):
            await (self.publish(event) if number % 2 else self._send(event))

    async def check(self, asked: Body) -> Body:
        decision = (await self._post("/v1/limit-checks", builders.to_bytes(asked), {})).json()
        known = self.decisions.setdefault(asked["operation_id"], (asked, decision))
        assert known[1] == decision, f"told {known[1]}, then {decision}"
        return dict(decision)

    async def publish(self, event: Body) -> None:
        await self._until_taken(event["id"], lambda: self._publish(event))
        self.events[event["id"]] = event

    async def _publish(self, event: Body) -> bool:
        headers = {"Nats-Msg-Id": event["id"]}
        try:
            await self.producer.jetstream(timeout=2).publish(
                subject_of(event["type"]), builders.to_bytes(event), headers=headers
            )
        except (nats.errors.Error, OSError):
            return False
        return True

    async def _send(self, event: Body) -> None:
        told = (await self._post("/v1/events", builders.to_bytes(event), {"content-type": CONTENT_TYPE})).json()
        assert not told["rejected"], told
        self.events[event["id"]] = event

    async def _post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        answers: list[httpx.Response] = []
        turn = itertools.cycle(self.fleet.ledgers)

        async def once() -> bool:
            try:
                answer = await self.http.post(f"{next(turn).url}{path}", content=content, headers=headers)
            except httpx.TransportError:
                return False
            answers.append(answer)
            return answer.status_code != 503

        await self._until_taken(path, once)
        assert answers[-1].status_code == 200, answers[-1].text
        return answers[-1]

    async def _until_taken(self, what: str, once: Any) -> None:  # Any: an async function that says whether it was
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while not await once():  # noqa: ASYNC110 - each look is a request
                await asyncio.sleep(RETRY_SECONDS)


async def quiet(fleet: Fleet) -> None:
    """Returns when every operation has its outcome, and the ledger has all events; an ended hold is ended."""

    async def rest() -> bool:
        await asyncio.sleep(0.2)  # each look is three connections
        consumer = await fleet.consumer()
        left = (fleet.unfinished(), fleet.unconfirmed(), consumer.num_pending, consumer.num_ack_pending)
        return not any(left) and not await fleet.fetch(SETTLED)

    await eventually(rest, "journals and stream are drained", QUIET_SECONDS)


async def differences(fleet: Fleet, images: Load, direct: Direct, open_holds: set[str]) -> list[str]:
    """What customers were told and the books do not agree in, in words; empty = nothing lost, nothing doubled."""
    wrong: list[str] = []
    accounts = {*images.account_ids, *direct.account_ids}
    rows = [dict(row) for row in await fleet.fetch("select *, operation_id::text as id from usage_log")]
    logged = {row["id"]: row for row in rows}
    wrong += [f"twice in the usage log: {row}" for row in rows if logged[row["id"]] is not row]
    told = {one.operation_id: one for one in images.told}
    for one in images.told:
        row = logged.get(one.operation_id or "")
        wanted: tuple[str, str, str, int] | None
        match one.status:
            case 200:
                wanted = ("completed", one.user_id, one.account_id, int(one.cost * 10**9))
            case 502:
                wanted = ("failed", one.user_id, one.account_id, 0)
            case 429:
                wanted = None
            case _:
                wrong.append(f"an answer like no other: {one}")
                continue
        found = row and (row["outcome"], row["user_id"], row["account_id"], row["cost_nanos"])
        if found != wanted:
            wrong.append(f"told {one}, recorded {row}")
    charged = Counter(row["user_id"] for row in rows)
    wrong += [f"charged {count} times: {name}" for name, count in charged.items() if count > 1]
    sent = {event["data"]["operation_id"] for event in direct.events.values()}
    wrong += [f"nobody asked for it: {row}" for row in rows if row["id"] not in told and row["id"] not in sent]
    known = Counter(str(row[0]) for row in await fleet.fetch("select event_id from event_log"))
    wrong += [f"{known[event_id]} times in the log: {event}" for event_id, event in direct.events.items()
              if known[event_id] != 1]  # fmt: skip
    states = {str(row[0]): row[1] for row in await fleet.fetch("select operation_id, state from decisions")}
    for operation_id, (_, decision) in direct.decisions.items():
        wanted_states = (
            {"held"} if operation_id in open_holds
            else {"denied"} if not decision["allowed"]
            else {"released"} if operation_id in direct.released
            else {"settled"}
        )  # fmt: skip
        if states.get(operation_id) not in wanted_states:
            wrong.append(f"{operation_id} is {states.get(operation_id)}, not {wanted_states}: {decision}")
    leaked = {operation_id for operation_id, state in states.items() if state == "held"} - open_holds
    wrong += [f"held for ever: {operation_id}" for operation_id in leaked]
    database = await asyncpg.connect(fleet.postgres.url)
    try:
        await assert_projections_agree(database, await replayed(database, accounts), accounts)
    finally:
        await database.close()
    holes = await fleet.fetch(
        "select source, recorded::text from sources where recorded <> range_merge(recorded)::int8multirange"
    )
    return wrong + [f"events are missing: {dict(row)}" for row in holes]


async def asked_again(images: Load, direct: Direct, some: int = 5) -> list[str]:
    """Idempotency keys and limit checks of before, sent again: which of them are answered otherwise now.

    The first ones and the last ones, so that both versions have made some."""
    wrong = []
    before = [one for one in images.told if one.status == 200]
    for one in (*before[:some], *before[-some:]):
        number = int(one.user_id.removeprefix("request-"))
        url = images.image_urls[number // len(images.account_ids) % len(images.image_urls)]
        headers = {"X-Account-Id": one.account_id, "X-User-Id": one.user_id, "Idempotency-Key": one.user_id}
        body = {"prompt": "a lighthouse at dusk", "width": 32, "height": 32, "seed": number}
        answer = await images.http.post(f"{url}/v1/images/generate", headers=headers, json=body)
        said = answer.json()
        if (answer.status_code, said.get("operation_id")) != (200, one.operation_id):
            wrong.append(f"told {one}, now {answer.status_code} {answer.text[:200]}")
    still = [told for operation_id, told in direct.decisions.items() if operation_id not in direct.released]
    for asked, decision in (*still[:some], *still[-some:]):
        again = await direct.check(asked)
        if again != decision:
            wrong.append(f"told {decision}, now {again}")
    assert before
    assert still
    return wrong
