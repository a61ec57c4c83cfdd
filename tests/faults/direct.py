"""Customers without an image service: limit checks over HTTP, outcomes over NATS and HTTP, in any order, some repeated.

They keep a record of what they were told, as a client would that has to prove it; ``wrong`` compares it with the books.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import httpx
import nats
import nats.errors
from nats.aio.client import Client

from contracts.events import BATCH_CONTENT_TYPE
from contracts.subjects import MSG_ID_HEADER, subject_of
from tests.builders import ABSENT, Body, check, completed, failed, requested
from tests.e2e.driver import AccountClient
from tests.faults.arena import HOLD_SECONDS, Arena
from tests.oracle import nanos
from tests.soak.facts import dollars

#: How long an operation takes, at most. Most holds outlast it.
WORK_SECONDS_MAX: Final = 1.0
PAUSE_SECONDS: Final = 0.1
PUBLISH_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 10.0
#: How long a customer goes on trying to be heard once the stack is whole again.
INSIST_SECONDS: Final = 60.0
FATES: Final = {"completed": 60, "failed": 10, "billed": 5, "released": 10, "forgotten": 5}
#: Whoever is away, restarting or out of something says so in one of these ways; all else is an answer.
QUESTIONS_AT_ONCE: Final = 16
BUSY: Final = (429, 503)
#: How long after its time a hold may be open on a stack that is whole.
EXPIRY_SECONDS_MAX: Final = 2.0
_KEPT: Final = ("allowed", "reservation", "denial", "limits", "decided_at")


@dataclass
class Record:
    """What one customer knows of one operation."""

    check: Body
    decision: Body | None = None
    #: Events that somebody has acknowledged: the ledger itself (HTTP), or NATS.
    events: list[Body] = field(default_factory=list)
    released: bool = False


class DirectCustomers:
    """``run`` until told to stop, then ``insist`` until all was heard, then ask what is ``wrong``."""

    def __init__(self, seed: int, arena: Arena, accounts: list[AccountClient], http: httpx.AsyncClient) -> None:
        self.seed = seed
        self.accounts = accounts
        self.records: dict[str, Record] = {}
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._arena = arena
        self._http = http
        self._nats: Client | None = None
        self._next = 0
        self._over = asyncio.Event()
        self.odd: list[str] = []

    async def run(self, clients: int, until: asyncio.Event, pause_seconds: float = 0.0) -> None:
        async def client() -> None:
            while not until.is_set():
                index, self._next = self._next, self._next + 1
                await self._operation(Random(f"{self.seed}/direct/{index}"), index)
                await asyncio.sleep(pause_seconds)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(client())
        if self._nats is not None:
            await self._nats.close()

    async def _operation(self, chance: Random, index: int) -> None:
        fate = chance.choices(list(FATES), list(FATES.values()))[0]
        asked = check(
            account_id=chance.choice(self.accounts).id,
            user_id=f"d{index}",
            operation=chance.choice(("generate", "edit", "upscale")),
            quantity=chance.randrange(1, 5),
            estimated_cost=f"0.{chance.randrange(1, 60):03d}000000",
            ttl_seconds=chance.randrange(1, 4) if fate == "forgotten" or chance.random() < 0.05 else HOLD_SECONDS,
        )
        record = self.records[asked["operation_id"]] = Record(asked)
        # Who asks again as an answer was lost may find that the short hold it was about is over.
        is_short = asked["ttl_seconds"] < HOLD_SECONDS
        answer = await self._patiently("POST", "/v1/limit-checks", asked, may_be_over=is_short)
        if answer is None:
            return
        record.decision = answer
        if not answer["allowed"]:
            return
        await asyncio.sleep(chance.random() * WORK_SECONDS_MAX)
        if fate == "released":
            path = f"/v1/reservations/{asked['operation_id']}:release"
            record.released = await self._patiently("POST", path, None) is not None
        elif fate != "forgotten":
            await self._tell(chance, record, fate)
        if chance.random() < 0.2:
            await self._look(chance, asked)

    async def _tell(self, chance: Random, record: Record, fate: str) -> None:
        asked = record.check
        if fate == "completed":
            # Never above the estimate: then nothing may ever exceed a limit.
            cost = dollars(chance.randrange(nanos(asked["estimated_cost"]) // 2, nanos(asked["estimated_cost"]) + 1))
            outcome = completed(asked, cost=cost, source="direct", sourcesequence=ABSENT)
        else:
            cost = asked["estimated_cost"] if fate == "billed" else "0"
            outcome = failed(asked, cost=cost, source="direct", sourcesequence=ABSENT)
        events = [outcome]
        if chance.random() < 0.7:
            events.append(requested(asked, source="direct", sourcesequence=ABSENT))
        if chance.random() < 0.2:
            events.append(outcome)
        chance.shuffle(events)
        for event in events:
            over_nats = chance.random() < 0.5
            if await (self._publish(event) if over_nats else self._post(event)) and event not in record.events:
                record.events.append(event)

    async def _publish(self, event: Body) -> bool:
        """Until NATS has acknowledged it."""
        while not self._over.is_set():
            try:
                if self._nats is None or self._nats.is_closed:
                    self._nats = await nats.connect(
                        self._arena.stack.state.nats_url.split(","),
                        allow_reconnect=False,
                        connect_timeout=2,
                        ping_interval=2,
                    )
                headers = {MSG_ID_HEADER: event["id"]}
                await self._nats.jetstream().publish(
                    subject_of(event["type"]), json.dumps(event).encode(), timeout=PUBLISH_SECONDS, headers=headers
                )
            except (OSError, nats.errors.Error, AssertionError):  # the last: the stack is just being started
                self.statuses["nats away"] += 1
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self.statuses["nats"] += 1
                return True
        return False

    async def _post(self, event: Body) -> bool:
        answer = await self._patiently("POST", "/v1/events", [event], BATCH_CONTENT_TYPE)
        if answer is None:
            return False
        if answer["accepted"] + answer["duplicates"] != 1:
            self.odd.append(f"not taken: {event}: {answer}")
        return True

    async def _look(self, chance: Random, asked: Body) -> None:
        account = asked["account_id"]
        path = chance.choice(
            (
                f"/v1/accounts/{account}/usage",
                f"/v1/accounts/{account}/usage-log?limit=20",
                f"/v1/decisions/{asked['operation_id']}",
            )
        )
        await self._patiently("GET", path, None)

    async def _patiently(
        self, method: str, path: str, body: Any, content_type: str = "application/json", may_be_over: bool = False
    ) -> Body | None:
        """The answer, asked for until there is one. None where the run is over first, or where ``may_be_over`` what an
        earlier attempt has begun."""
        content = None if body is None else json.dumps(body)
        attempts = 0
        while not self._over.is_set():
            attempts += 1
            began = asyncio.get_running_loop().time()
            try:
                answer = await self._http.request(
                    method,
                    f"{self._arena.ledger_url}{path}",
                    content=content,
                    headers={"content-type": content_type},
                    timeout=ANSWER_SECONDS,
                )
            except httpx.TransportError:
                self.statuses["http away"] += 1
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self.statuses[f"http {answer.status_code}"] += 1
            if answer.status_code == 200:
                self.seconds.append(asyncio.get_running_loop().time() - began)
                found: Body = answer.json()
                return found
            if may_be_over and attempts > 1 and _says_closed(answer):
                return None
            if answer.status_code not in BUSY:
                self.odd.append(f"{method} {path}: {answer.status_code} {answer.text}")
                return None
            if "retry-after" not in answer.headers:
                self.odd.append(f"does not say when to try again: {method} {path}: {answer.text}")
            await asyncio.sleep(PAUSE_SECONDS)
        return None

    async def give_up_after(self, work: "asyncio.Task[None]") -> None:
        """Those under way get an answer in time, as the stack is whole; else they are stopped, and that is odd."""
        done, _ = await asyncio.wait([work], timeout=INSIST_SECONDS)
        if not done:
            self.odd.append(f"no answer within {INSIST_SECONDS:g} s though the stack is ready")
            self._over.set()
        await work

    async def publish_again(self) -> None:
        """What NATS acknowledged and may have forgotten, as a producer with a journal does it; over HTTP."""
        events = [event for record in self.records.values() for event in record.events]
        for first in range(0, len(events), 500):
            answer = await self._patiently("POST", "/v1/events", events[first : first + 500], BATCH_CONTENT_TYPE)
            if answer is not None and answer["rejected"]:
                self.odd.append(f"a repeat was rejected: {answer['rejected'][:3]}")

    async def wrong(self, rows: dict[str, Body]) -> list[str]:
        """The record against the usage log, by operation, and the decisions against what was answered."""
        wrong: list[str] = []
        room = asyncio.Semaphore(QUESTIONS_AT_ONCE)

        async def ask(record: Record, outcome: Body | None) -> None:
            async with room:
                wrong.extend(await self._decision_wrong(record, outcome))

        questions = []
        for operation_id, record in self.records.items():
            outcome = next((event for event in record.events if ".requested." not in event["type"]), None)
            row = rows.get(operation_id)
            if outcome is not None:
                told = ("completed" if "completed" in outcome["type"] else "failed", nanos(outcome["data"]["cost"]))
                if row is None or (row["outcome"], nanos(row["cost"])) != told:
                    wrong.append(f"acknowledged: {told} of {operation_id}; in the usage log: {row}")
            elif row is not None:
                wrong.append(f"nobody reported it: {row}")
            if record.decision is not None:
                questions.append(ask(record, outcome))
        await asyncio.gather(*questions)
        return self.odd + wrong

    async def _decision_wrong(self, record: Record, outcome: Body | None) -> list[str]:
        """What was answered is what is kept, and its hold ended as the customer ended it."""
        told = record.decision
        assert told is not None
        kept = await self._patiently("GET", f"/v1/decisions/{told['operation_id']}", None) or {}
        different = {name: (told[name], kept.get(name)) for name in _KEPT if told[name] != kept.get(name)}
        wrong = [f"decision {told['operation_id']}, told and kept: {different}"] if different else []
        states = ("released", "expired") if record.released else ("settled", "released") if outcome else ("expired",)
        if told["allowed"] and kept.get("state") not in states and not _runs_on(record, kept, outcome):
            wrong.append(
                f"decision {told['operation_id']} is {kept.get('state')}, not {' or '.join(states)}: "
                f"asked {record.check}, told {told['reservation']}, kept {kept.get('reservation')}"
            )
        if kept.get("state") in ("settled", "denied"):  # one that ended otherwise refuses a repeat
            again = await self._patiently("POST", "/v1/limit-checks", record.check)
            if again != told:
                wrong.append(f"another answer to the same check: {told}, now {again}")
        return wrong


def _says_closed(answer: httpx.Response) -> bool:
    return answer.status_code == 409 and answer.json()["code"] == "reservation_closed"


def _runs_on(record: Record, kept: Body, outcome: Body | None) -> bool:
    """A hold whose operation has no outcome may be open when the audit comes before its time is over."""
    until = (kept.get("reservation") or {}).get("expires_at")
    grace = timedelta(seconds=EXPIRY_SECONDS_MAX)
    return (
        kept.get("state") == "held"
        and outcome is None
        and not record.released
        and until is not None
        and datetime.now(UTC) < datetime.fromisoformat(until) + grace
    )
