"""Sends what is queued for webhooks: of one account to one endpoint one at a time, in order; of different ones at once.

No connection to the database is held while something is sent. A process that dies in the middle leaves a claim that
runs out; then another one sends the same again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

import structlog

from contracts.identifiers import uuid7
from contracts.webhooks import DeliveryState
from ledger_service.domain.webhooks import Answer, Policy, Shares, choose, headers, judge
from ledger_service.store import deliveries as store
from ledger_service.store.pool import TRANSIENT, Connection, Pool, in_transaction
from ledger_service.store.webhooks import find_webhook, lock_state, note_outcome, read_secrets
from ledger_service.webhook_administration import disable_webhook, host_of
from ledger_service.webhook_follow import FOLLOWER, Follower, follow_portion
from ledger_service.webhook_targets import Sender

log = structlog.get_logger()

#: What is looked at for something to send, at most, at once.
DUE_MAX: Final = 200
#: Beyond the deadline of a request, for the database.
CLAIM_MARGIN_SECONDS: Final = 2.0
PURGE_ROWS: Final = 1_000
PURGE_INTERVAL_SECONDS: Final = 60.0

Key = TypeVar("Key", UUID, str)


@dataclass
class Deliverer:
    """Any number of processes may run one each."""

    pool: Pool
    sender: Sender
    policy: Policy
    #: Of what is sent at once, in this process.
    shares: Shares
    #: Told of each request: delivered, failed (it is tried again), given_up, or disabled.
    on_outcome: Callable[[str], None] = lambda _: None
    _chance: random.Random = field(default_factory=random.SystemRandom)
    #: What is on its way, by endpoint and by whose that is.
    _of_endpoint: Counter[UUID] = field(default_factory=Counter)
    _of_owner: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, interval_seconds: float) -> None:
        """Until cancelled; what is being sent then is sent again by whoever is next."""
        try:
            while True:
                began = 0
                try:
                    began = await self._begin_due()
                except TRANSIENT as error:
                    log.warning("webhooks_wait", error=str(error) or type(error).__name__)
                if not began:
                    await self._pause(interval_seconds)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Until something may be due, or there is room again: what is done frees its lane's next."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    async def _begin_due(self) -> int:
        if len(self._tasks) >= self.shares.in_all:
            return 0
        endpoints = [one for one, count in self._of_endpoint.items() if count >= self.shares.per_endpoint]
        owners = [one for one, count in self._of_owner.items() if count >= self.shares.of_owner(one)]
        name, claim_seconds = uuid7(), self.sender.timeout_seconds + CLAIM_MARGIN_SECONDS
        async with self.pool.acquire() as connection:
            due = await store.read_due(connection, endpoints, owners, DUE_MAX)
            if not due:
                return 0
            lanes = choose(due, self._of_endpoint, self._of_owner, self.shares)
            async with connection.transaction():
                claimed = await store.claim(connection, lanes, claim_seconds, name)
            secrets = {task.lane: await read_secrets(connection, task.owner, task.lane[1]) for task in claimed}
        for task in claimed:
            if not secrets[task.lane]:
                continue  # removed since it was claimed: nothing goes out that nobody could verify
            self._of_endpoint[task.lane[1]] += 1
            self._of_owner[task.owner] += 1
            sending = asyncio.create_task(self._deliver(task, secrets[task.lane], name))
            self._tasks.add(sending)
            sending.add_done_callback(self._tasks.discard)
        return len(claimed)

    async def _deliver(self, task: store.Task, secrets: list[bytes], name: UUID) -> None:
        try:
            started_at = datetime.now(UTC)
            sent = headers(secrets, task.message_id, started_at, task.body)
            answer, text, seconds = await self.sender.send(task.url, sent, task.body, task.owner)
            tried = store.Tried(started_at, round(seconds * 1000), answer.status, answer.error, text)
            async with self.pool.acquire() as connection:
                await in_transaction(connection, lambda: self._settle(connection, task, name, answer, tried))
        except TRANSIENT as error:
            # The claim runs out by itself.
            log.warning("webhook_outcome_not_kept", webhook=task.webhook_id, error=str(error) or type(error).__name__)
        finally:
            _count_down(self._of_endpoint, task.lane[1])
            _count_down(self._of_owner, task.owner)

    async def _settle(
        self, connection: Connection, task: store.Task, name: UUID, answer: Answer, tried: store.Tried
    ) -> None:
        endpoint = task.lane[1]
        since, now = await lock_state(connection, task.owner, endpoint)
        is_ours = await store.lock_claim(connection, task.lane, name)
        if not is_ours:
            await store.settle(connection, task, tried, None)
            return
        if not answer.is_success and await _has_moved(connection, task):
            # What was answered at the address before says nothing of this one.
            await store.settle(connection, task, tried, DeliveryState.PENDING)
            await store.free_lane(connection, task.lane, None, resting=False)
            return
        verdict = judge(answer, task.tries + 1, since, now, self._chance.random(), self.policy)
        error = None if answer.is_success else answer.error or f"answered {answer.status}"
        await store.settle(connection, task, tried, verdict.state)
        await note_outcome(connection, task.owner, endpoint, now, error)
        await store.free_lane(connection, task.lane, verdict.again_in_seconds, resting=verdict.disable is not None)
        about = {"webhook": task.webhook_id, "account": task.owner or None, "host": host_of(task.url)}
        if verdict.disable is not None:
            if await disable_webhook(connection, endpoint, verdict.disable) is not None:
                log.error("webhook_disabled", reason=verdict.disable.value, error=error, **about)
        elif error is not None:
            log.warning("webhook_failed", message=str(task.message_id), error=error, state=verdict.state.value, **about)
        self.on_outcome(_outcome(verdict.state, disabled=verdict.disable is not None))


def _count_down(counted: Counter[Key], key: Key) -> None:
    counted[key] -= 1
    if not counted[key]:
        del counted[key]


async def _has_moved(connection: Connection, task: store.Task) -> bool:
    """Whether the endpoint was given another address since; its state is locked."""
    stored = await find_webhook(connection, task.owner, task.webhook_id)
    return stored is not None and stored.endpoint_id == task.lane[1] and stored.url != task.url


def _outcome(state: DeliveryState, *, disabled: bool) -> str:
    if disabled:
        return "disabled"
    names = {DeliveryState.DELIVERED: "delivered", DeliveryState.PENDING: "failed", DeliveryState.FAILED: "given_up"}
    return names[state]


async def follow(pool: Pool, interval_seconds: float) -> None:
    """Queues what is new; until cancelled."""
    follower = Follower(FOLLOWER)
    while True:
        more = False
        try:
            async with pool.acquire() as connection:
                more = await follow_portion(connection, follower)
        except TRANSIENT as error:
            log.warning("notifications_wait", error=str(error) or type(error).__name__)
        if not more:
            await asyncio.sleep(interval_seconds)


async def purge(pool: Pool, keep_seconds: float) -> None:
    """Forgets deliveries that are over for so long, a few at a time; until cancelled."""
    while True:
        removed = 0
        try:
            async with pool.acquire() as connection:
                removed = await store.purge(connection, keep_seconds, PURGE_ROWS)
        except TRANSIENT as error:
            log.warning("purge_waits", error=str(error) or type(error).__name__)
        await asyncio.sleep(PURGE_INTERVAL_SECONDS if removed < PURGE_ROWS else 0)
