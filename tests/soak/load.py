"""The load: many callers at once that check, and what becomes of their operations, at random."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import httpx
import nats.errors
import orjson
from nats.aio.client import Client as Nats

from contracts.events import BATCH_CONTENT_TYPE
from contracts.identifiers import uuid7
from contracts.problems import RESERVATION_CLOSED
from contracts.subjects import (
    LIMITS_CHECK,
    MSG_ID_HEADER,
    RESERVATIONS_MOVE,
    subject_of,
)
from tests.servers import eventually, has_acknowledged_all
from tests.soak.facts import (
    COST_NANOS_MAX,
    MEMBERS,
    MODELS,
    OPERATIONS,
    PLANS,
    PROVIDERS,
    UNITS_MAX,
    Body,
    account_body,
    account_id,
    dollars,
    is_strict,
)
from tests.soak.verifier import fingerprint_of

ANSWER_SECONDS: Final = 10
ATTEMPTS_MAX: Final = 30
#: Longer than any load lasts.
TTL_SECONDS: Final = 7200
SHORT_TTL_SECONDS_MAX: Final = 4
#: Operations that are open at a time, for each account.
OPEN_PER_ACCOUNT: Final = 4
EVENTS_PER_SENDING: Final = 50
#: What becomes of an admitted operation, and how often.
STRICT_FATES: Final = {"exact": 25, "below": 30, "unbilled": 10, "billed": 5, "release": 3, "expire": 24, "extend": 3}
LOOSE_FATES: Final = {**STRICT_FATES, "above": 10, "late": 6}
ASKED_TWICE: Final = 0.02
#: Admitted operations that go to another provider.
MOVED: Final = 0.1
SENT_TWICE: Final = 0.03
DENIED_AND_DONE: Final = 0.03
LEFT_OPEN: Final = 0.02
#: Outcomes whose own time lies in some other window than their admission, which must not matter.
AT_ANOTHER_TIME: Final = 0.2
DAYS_AWAY_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class _Open:
    check: Body
    fate: str


class Load:
    """Sends ``checks`` checks of ``accounts`` accounts over NATS, ``callers`` at once, and their outcomes."""

    def __init__(
        self,
        connection: Nats,
        https: Sequence[httpx.AsyncClient],
        *,
        seed: int,
        checks: int,
        accounts: int,
        callers: int,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._nats = connection
        self._https = https
        self._chance = random.Random(seed)
        self._checks, self._accounts, self._callers = checks, accounts, callers
        self._advance = advance
        self._numbers: Iterator[int] = iter(range(checks))
        self._open: list[_Open] = []
        self._events: list[Body] = []
        self._sendings: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.fingerprint = 0
        #: Operations whose hold had ended before anybody got the decision.
        self.unheard: set[str] = set()
        self.did: Counter[str] = Counter()

    async def set_up(self, plans: Mapping[str, list[Body]]) -> None:
        for name, limits in plans.items():
            await self._put(f"/v1/plans/{name}", {"name": name, "limits": limits})
        for first in range(0, self._accounts, 50):
            some = range(first, min(first + 50, self._accounts))
            await asyncio.gather(
                *(self._put(f"/v1/accounts/{account_id(index)}", account_body(index, index)) for index in some)
            )

    async def run(self) -> None:
        """All the checks; then the open operations are finished, but for some, and all outcomes are committed."""
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._callers):
                callers.create_task(self._call())
        for one in self._open:
            if self._chance.random() >= LEFT_OPEN:
                await self._finish(one)
        self._send_events()
        while self._sendings:
            await asyncio.gather(*self._sendings)

    async def settled(self, database_url: str) -> None:
        """Returns when the ledger has taken all events, and ended all holds whose time is over."""
        database = await asyncpg.connect(database_url)

        async def idle() -> bool:
            return await has_acknowledged_all(self._nats)

        async def none_due() -> bool:
            soon = "select count(*) from decisions where state = 'held' and expires_at < now() + interval '1 minute'"
            return bool(await database.fetchval(soon) == 0)

        try:
            await eventually(idle, "all events are ingested", within_seconds=600)
            await eventually(none_due, "all short holds have ended", within_seconds=600)
        finally:
            await database.close()

    # callers

    async def _call(self) -> None:
        for number in self._numbers:
            if self._failure is not None:
                raise self._failure
            check, fate = self._make(number)
            body = orjson.dumps(check)
            ends_at = asyncio.get_running_loop().time() + check["ttl_seconds"]
            answers = [await self._ask(body, ends_at)]
            if not answers[0]:  # a busy machine: no answer came for as long as the hold lasted
                self.unheard.add(check["operation_id"])
                self._advance(1)
                continue
            if self._chance.random() < ASKED_TWICE:
                again = await asyncio.gather(self._ask(body, ends_at), self._ask(body, ends_at))
                answers += filter(None, again)
                self.did["asked again"] += 2
            if len(set(answers)) != 1:
                raise AssertionError(f"one check, several answers: {answers}")
            decision = orjson.loads(answers[0])
            self.fingerprint ^= fingerprint_of(decision)
            self.did["allowed" if decision["allowed"] else "denied"] += 1
            if decision["allowed"]:
                if check["ttl_seconds"] == TTL_SECONDS and self._chance.random() < MOVED:
                    check = await self._move(check, decision)
                self._open.append(_Open(check, fate))
            elif not is_strict(check["account_id"]) and self._chance.random() < DENIED_AND_DONE:
                self._outcome(_Open(check, "exact"))
                self.did["denied and done all the same"] += 1
            if len(self._open) > OPEN_PER_ACCOUNT * self._accounts:
                await self._finish(self._pop())
            if number % (10 * PLANS) == 0:
                await self._upgrade()
            self._advance(1)

    def _make(self, number: int) -> tuple[Body, str]:
        chance = self._chance
        # A tenth of all is about few accounts, so that their callers meet.
        few = max(1, self._accounts // 100)
        account = account_id(chance.randrange(few if number % 10 == 0 else self._accounts))
        fates = STRICT_FATES if is_strict(account) else LOOSE_FATES
        [fate] = chance.choices(list(fates), list(fates.values()))
        short = fate in ("expire", "extend", "late")
        cost = chance.choice((0, 1, 7)) if chance.random() < 0.05 else int(COST_NANOS_MAX * chance.random() ** 3)
        check = {
            "operation_id": str(uuid7()), "account_id": account, "user_id": f"user-{chance.randrange(MEMBERS)}",
            "project_id": f"project-{chance.randrange(MEMBERS)}", "api_key_id": f"key-{chance.randrange(MEMBERS)}",
            "operation": chance.choice(OPERATIONS), "provider": chance.choice(PROVIDERS),
            "model": chance.choice(MODELS), "quantity": chance.randint(1, UNITS_MAX), "estimated_cost": dollars(cost),
            "ttl_seconds": chance.randint(1, SHORT_TTL_SECONDS_MAX) if short else TTL_SECONDS,
        }  # fmt: skip
        return check, fate

    async def _move(self, check: Body, decision: Body) -> Body:
        """Its first provider failed: what is held is to be another one's. What is held then, as a check."""
        chance = self._chance
        cost = dollars(int(COST_NANOS_MAX * chance.random()))
        provider, model = chance.choice(PROVIDERS), chance.choice(MODELS)
        to = {"provider": provider, "model": model, "quantity": chance.randint(1, UNITS_MAX), "estimated_cost": cost}
        placed = {"account_id": check["account_id"], "placed_at": decision["decided_at"], "ttl_seconds": TTL_SECONDS}
        body = orjson.dumps({**to, **placed, "operation_id": check["operation_id"]})
        moved = orjson.loads(await self._ask(body, math.inf, RESERVATIONS_MOVE))
        self.did["moved" if moved["allowed"] else "not moved"] += 1
        if not moved["allowed"]:
            return check
        self.fingerprint ^= fingerprint_of(moved)
        return {**check, **to}

    async def _ask(self, body: bytes, ends_at: float, subject: str = LIMITS_CHECK) -> bytes:
        """The answer to a check; asked again, the same, while nobody answers. From ``ends_at`` on the hold of one that
        was answered may have ended: then nothing, where that is the answer."""
        for attempt in range(ATTEMPTS_MAX):
            try:
                answer = await self._nats.request(subject, body, timeout=ANSWER_SECONDS)
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                self.did["not answered"] += 1
            else:
                code = (answer.headers or {}).get("Nats-Service-Error-Code")
                if code is None:
                    return answer.data
                if RESERVATION_CLOSED.code.encode() in answer.data and asyncio.get_running_loop().time() >= ends_at:
                    self.did["asked again after its hold had ended"] += 1
                    return b""
                if code != "503":
                    raise AssertionError(f"a check was refused: {answer.data.decode()}")
                self.did["answered with 503"] += 1
            await asyncio.sleep(min(1.0, 0.05 * 2**attempt))
        raise AssertionError(f"asked {ATTEMPTS_MAX} times without an answer: {body.decode()}")

    async def _upgrade(self) -> None:
        """An account that is not strict goes to some other plan."""
        index = min(self._chance.randrange(self._accounts) | 1, self._accounts - 1)
        if not is_strict(account_id(index)):
            body = account_body(index, self._chance.randrange(PLANS))
            await self._put(f"/v1/accounts/{account_id(index)}", body)
            self.did["plan changed"] += 1

    # what becomes of them

    def _pop(self) -> _Open:
        index = self._chance.randrange(len(self._open))
        self._open[index], self._open[-1] = self._open[-1], self._open[index]
        return self._open.pop()

    async def _finish(self, one: _Open) -> None:
        operation = f"/v1/reservations/{one.check['operation_id']}"
        account = {"account_id": one.check["account_id"]}
        match one.fate:
            case "expire":
                return
            case "release":
                answer = await self._http().post(f"{operation}:release", json=account)
                self._expect(answer, 200)
            case "extend":
                answer = await self._http().post(f"{operation}:extend", json={**account, "ttl_seconds": TTL_SECONDS})
                self._expect(answer, 200, 409)
                if answer.status_code == 200:
                    self._outcome(one)
                    self.did["extended"] += 1
            case _:
                self._outcome(one)

    def _outcome(self, one: _Open) -> None:
        check, fate, chance = one.check, one.fate, self._chance
        estimate, quantity = int(check["estimated_cost"].replace(".", "")), check["quantity"]
        cost, provider = estimate, check["provider"]
        kind = "failed" if fate in ("unbilled", "billed") else "completed"
        if fate in ("below", "billed"):
            cost, quantity = chance.randint(0, estimate), chance.randint(1, quantity)
        elif fate == "unbilled":
            cost = 0
        elif fate == "above":
            cost, quantity = estimate + chance.randint(1, COST_NANOS_MAX), quantity + chance.randint(0, UNITS_MAX)
            provider = chance.choice(PROVIDERS)
        away = chance.uniform(-DAYS_AWAY_MAX, DAYS_AWAY_MAX) if chance.random() < AT_ANOTHER_TIME else 0
        now = (datetime.now(UTC) + timedelta(days=away)).isoformat()
        names = ("operation_id", "account_id", "user_id", "project_id", "api_key_id", "operation", "provider", "model")
        data: Body = {
            **{name: check[name] for name in names}, "quantity": quantity, "request_bytes": 100, "cost": dollars(cost),
            "requested_at": now, "duration_ms": 5, "actual_provider": provider, "status_code": 200, "retry_count": 0,
        }  # fmt: skip
        data |= {"response_bytes": 9} if kind == "completed" else {"error": {"code": "no", "message": "no"}}
        event = {
            "specversion": "1.0", "id": str(uuid7()), "type": f"usage.operation.{kind}.v1", "source": "soak",
            "subject": check["account_id"], "time": now, "data": data,
        }  # fmt: skip
        self.did[fate] += 1
        self._events += [event] * (2 if chance.random() < SENT_TWICE else 1)
        if len(self._events) >= EVENTS_PER_SENDING:
            self._send_events()

    def _send_events(self) -> None:
        """Half go by JetStream and half over HTTP; two of a pair may come to two ledgers at once."""
        events, self._events = self._events, []
        self._chance.shuffle(events)
        if not events:
            return
        send = self._publish if self._chance.random() < 0.5 else self._post
        task = asyncio.create_task(send(events))
        self._sendings.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sendings.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _publish(self, events: list[Body]) -> None:
        jetstream = self._nats.jetstream(timeout=ANSWER_SECONDS)

        async def one(event: Body) -> None:
            # No header for a half of them, so that duplicates reach the ledger too.
            headers = {MSG_ID_HEADER: event["id"]} if event["id"][-1] in "01234567" else None
            await jetstream.publish(subject_of(event["type"]), orjson.dumps(event), headers=headers)

        await asyncio.gather(*(one(event) for event in events))

    async def _post(self, events: list[Body]) -> None:
        headers = {"content-type": BATCH_CONTENT_TYPE}
        answer = await self._http().post("/v1/events", content=orjson.dumps(events), headers=headers)
        self._expect(answer, 200)
        if answer.json()["rejected"]:
            raise AssertionError(f"events were rejected: {answer.text}")

    # HTTP

    def _http(self) -> httpx.AsyncClient:
        return self._chance.choice(self._https)

    async def _put(self, path: str, body: Any) -> None:  # Any: JSON
        self._expect(await self._http().put(path, content=orjson.dumps(body)), 200)

    def _expect(self, answer: httpx.Response, *statuses: int) -> None:
        if answer.status_code not in statuses:
            raise AssertionError(f"{answer.request.url}: {answer.status_code} {answer.text}")
