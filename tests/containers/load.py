"""Customers who go on while services are restarted, and keep a record of all that they were told."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import httpx

ATTEMPTS_SECONDS: Final = 90.0
RETRY_SECONDS: Final = 0.2
PAUSE_SECONDS: Final = 0.05
#: "Not now": the same request again, with the same key, is charged once.
AGAIN: Final = frozenset({503, 409})


@dataclass(frozen=True)
class Told:
    """The end of one request. ``repeats``: how often it was sent again."""

    user_id: str
    account_id: str
    status: int
    operation_id: str | None
    cost: Decimal
    repeats: int
    seconds: float


@dataclass
class Load:
    """Requests to several image services, each to one of them alone: that is where its key is known."""

    http: httpx.AsyncClient
    image_urls: tuple[str, ...]
    account_ids: tuple[str, ...]
    told: list[Told] = field(default_factory=list)
    #: Why requests were sent again: a status, or the error of a connection.
    repeats: Counter[str] = field(default_factory=Counter)
    _next: int = 0

    async def run(self, clients: int, until: asyncio.Event) -> None:
        """Until the event is set, and what is under way has ended."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(until))

    async def _client(self, until: asyncio.Event) -> None:
        while not until.is_set():
            number, self._next = self._next, self._next + 1
            await self._request(number)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _request(self, number: int) -> None:
        account_id = self.account_ids[number % len(self.account_ids)]
        url = self.image_urls[number // len(self.account_ids) % len(self.image_urls)]
        user_id = f"request-{number}"
        headers = {"X-Account-Id": account_id, "X-User-Id": user_id, "Idempotency-Key": user_id}
        body: dict[str, str | int] = {"prompt": "a lighthouse at dusk", "width": 32, "height": 32, "seed": number}
        began, repeats = time.monotonic(), 0
        while (answer := await self._once(f"{url}/v1/images/generate", headers, body)) is None:
            assert time.monotonic() - began < ATTEMPTS_SECONDS, f"{user_id} at {url} got no answer"
            repeats += 1
            await asyncio.sleep(RETRY_SECONDS)
        said: dict[str, Any] = answer.json()
        cost = Decimal(said["cost"]) if answer.status_code == 200 else Decimal(0)
        self.told.append(
            Told(
                user_id,
                account_id,
                answer.status_code,
                said.get("operation_id"),
                cost,
                repeats,
                time.monotonic() - began,
            )
        )

    async def _once(self, url: str, headers: dict[str, str], body: dict[str, str | int]) -> httpx.Response | None:
        """The answer; None for one that says "not now", or that did not come."""
        try:
            answer = await self.http.post(url, headers=headers, json=body)
        except httpx.TransportError as error:
            self.repeats[type(error).__name__] += 1
            return None
        if answer.status_code in AGAIN:
            self.repeats[str(answer.status_code)] += 1
            return None
        return answer


def differences(told: list[Told], rows: list[dict[str, Any]]) -> list[str]:
    """What the record of customers and the usage log do not agree in; empty = nothing was lost, nothing doubled."""
    wrong = []
    done = {one.operation_id: one for one in told if one.status == 200}
    logged = Counter(row["operation_id"] for row in rows)
    users = Counter(row["user_id"] for row in rows)
    wrong += [f"twice in the usage log: {name}" for name, count in logged.items() if count > 1]
    wrong += [f"charged {count} times: {name}" for name, count in users.items() if count > 1]
    wrong += [f"lost: {one}" for operation_id, one in done.items() if operation_id not in logged]
    wrong += [f"nobody was told: {row}" for row in rows if row["operation_id"] not in done]
    for row in rows:
        one = done.get(row["operation_id"])
        if one is not None and (row["user_id"], row["account_id"], Decimal(row["cost"])) != (
            one.user_id,
            one.account_id,
            one.cost,
        ):
            wrong.append(f"told {one}, recorded {row}")
    return wrong
