"""Endpoints of webhooks, their secrets, and how deliveries to them go."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.webhooks import SECRETS_MAX, DisabledReason, WebhookState, WebhookStored
from ledger_service.domain.ledger_events import NO_ACCOUNT
from ledger_service.domain.notifications import Subscription
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Of what is pending, so many are counted.
COUNTED_MAX: Final = 100_000


class Figures(NamedTuple):
    """``lag_seconds``: how long the oldest delivery to an endpoint that is neither disabled nor paused waits;
    ``overdue_seconds``: how long one waits whose turn to be tried has come."""

    disabled: int
    paused: int
    lag_seconds: float
    overdue_seconds: float


class FiguresOfAll(NamedTuple):
    """Of endpoints for all accounts, which the operator runs, and of those of accounts, which they run."""

    operator: Figures
    accounts: Figures


async def lock_webhooks(connection: "Connection") -> None:
    """Whoever changes endpoints waits here for others who do, until they have committed."""
    await connection.execute(SQL["lock"])


async def read_now(connection: "Connection") -> datetime:
    """When the transaction began, by the clock that says when facts are recorded."""
    now: datetime = await connection.fetchval(SQL["now"])
    return now


async def find_webhook(connection: "Connection", owner: str, webhook_id: str) -> WebhookStored | None:
    return _stored(await connection.fetchrow(SQL["find"], owner, webhook_id))


async def lock_endpoint(connection: "Connection", endpoint_id: UUID) -> WebhookStored | None:
    """The endpoint, which nobody changes until the transaction ends."""
    return _stored(await connection.fetchrow(SQL["find_endpoint"], endpoint_id))


async def list_webhooks(connection: "Connection", owner: str) -> list[WebhookStored]:
    return [_read(row) for row in await connection.fetch(SQL["of_account"], owner)]


async def list_subscriptions(connection: "Connection") -> list[Subscription]:
    """Of all endpoints that are told: also of those that are paused."""
    return [
        Subscription(row["endpoint_id"], row["account_id"], frozenset(row["types"]), row["since"], enabled=True)
        for row in await connection.fetch(SQL["subscriptions"])
    ]


def subscription_of(webhook: WebhookStored) -> Subscription:
    return Subscription(
        webhook.endpoint_id, webhook.account_id or NO_ACCOUNT, frozenset(webhook.types), webhook.since,
        webhook.is_told,
    )  # fmt: skip


async def put_webhook(connection: "Connection", webhook: WebhookStored) -> None:
    await connection.execute(
        SQL["put"], webhook.account_id or NO_ACCOUNT, webhook.webhook_id, webhook.endpoint_id, webhook.url,
        webhook.types, webhook.description, webhook.version, webhook.since, webhook.disabled_at,
        webhook.disabled_reason,
    )  # fmt: skip


async def remove_webhook(connection: "Connection", webhook: WebhookStored) -> None:
    """With its secrets. Its deliveries are removed later: see store.deliveries."""
    owner = webhook.account_id or NO_ACCOUNT
    await connection.execute(SQL["remove"], owner, webhook.webhook_id)
    await connection.execute(SQL["remove_secrets"], owner, webhook.endpoint_id)
    await connection.execute(SQL["remove_state"], owner, webhook.endpoint_id)


async def add_secret(
    connection: "Connection", owner: str, endpoint_id: UUID, secret_id: UUID, secret: bytes, previous_until: datetime
) -> None:
    """From now on the newest; those before it end at ``previous_until``, or when there are too many."""
    await connection.execute(SQL["expire_secrets"], owner, endpoint_id, previous_until, SECRETS_MAX)
    await connection.execute(SQL["add_secret"], owner, endpoint_id, secret_id, secret)


async def read_secrets(connection: "Connection", owner: str, endpoint_id: UUID) -> list[bytes]:
    """Those that are valid now, the newest first."""
    return [bytes(row["secret"]) for row in await connection.fetch(SQL["secrets"], owner, endpoint_id)]


async def read_states(connection: "Connection", owner: str) -> dict[UUID, WebhookState]:
    """How each endpoint of an account goes."""
    rows = await connection.fetch(SQL["states"], owner, COUNTED_MAX)
    return {row["endpoint_id"]: WebhookState(**{name: row[name] for name in WebhookState.model_fields}) for row in rows}


async def add_state(connection: "Connection", owner: str, endpoint_id: UUID) -> None:
    """Of a new endpoint, with it."""
    await connection.execute(SQL["add_state"], owner, endpoint_id)


class Failing(NamedTuple):
    """``since``: since when nothing was delivered; None: it works. ``now``: what time it is, by the same clock."""

    since: datetime | None
    now: datetime


async def lock_state(connection: "Connection", owner: str, endpoint_id: UUID) -> Failing:
    """How it goes; None as ``since`` also where the endpoint was removed. Until the transaction ends nobody else writes
    down what came of a delivery to this endpoint, queues any again, or changes it: each of them locks this first, and
    lanes and deliveries after it."""
    row = await connection.fetchrow(SQL["lock_state"], owner, endpoint_id)
    return Failing(*row) if row is not None else Failing(None, await read_now(connection))


async def note_outcome(
    connection: "Connection", owner: str, endpoint_id: UUID, now: datetime, error: str | None
) -> None:
    """Something was delivered (``error`` None), or not."""
    if error is None:
        await connection.execute(SQL["note_delivered"], owner, endpoint_id, now)
    else:
        await connection.execute(SQL["note_failed"], owner, endpoint_id, now, error)


async def forget_failures(connection: "Connection", owner: str, endpoint_id: UUID) -> None:
    await connection.execute(SQL["forget_failures"], owner, endpoint_id)


async def read_figures(connection: "Connection") -> FiguresOfAll:
    of_operator, of_accounts = await connection.fetch(SQL["figures"])
    return FiguresOfAll(_figures(of_operator), _figures(of_accounts))


def _figures(row: "asyncpg.Record") -> Figures:
    return Figures(row["disabled"], row["paused"], row["lag_seconds"], row["overdue_seconds"])


def _stored(row: "asyncpg.Record | None") -> WebhookStored | None:
    return None if row is None else _read(row)


def _read(row: "asyncpg.Record") -> WebhookStored:
    reason = row["disabled_reason"]
    return WebhookStored(
        account_id=row["account_id"] or None,
        webhook_id=row["webhook_id"],
        endpoint_id=UUID(str(row["endpoint_id"])),
        url=row["url"],
        types=_texts(row["types"]),
        description=row["description"],
        version=row["version"],
        since=row["since"],
        disabled_at=row["disabled_at"],
        disabled_reason=None if reason is None else DisabledReason(reason),
    )


def _texts(given: Sequence[str]) -> list[str]:
    return list(given)
