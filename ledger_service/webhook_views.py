"""How stored deliveries are shown."""

from typing import TYPE_CHECKING, Any

from contracts.webhooks import Attempt, Delivery, DeliveryItem, DeliveryPage, WebhookSeen, WebhookState, WebhookStored
from ledger_service.domain.ledger_events import NO_ACCOUNT
from ledger_service.store.webhooks import list_webhooks, read_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from ledger_service.store.pool import Connection

_UNTRIED = WebhookState(pending=0, failing_since=None, last_delivered_at=None, last_failed_at=None, last_error=None)


async def seen_webhooks(connection: "Connection", account_id: str | None) -> list[WebhookSeen]:
    """The endpoints of an account, or (None) those for all, and how each goes."""
    owner = account_id or NO_ACCOUNT
    states = await read_states(connection, owner)
    return [_seen(one, states.get(one.endpoint_id, _UNTRIED)) for one in await list_webhooks(connection, owner)]


async def seen_webhook(connection: "Connection", webhook: WebhookStored) -> WebhookSeen:
    """One of them."""
    states = await read_states(connection, webhook.account_id or NO_ACCOUNT)
    return _seen(webhook, states.get(webhook.endpoint_id, _UNTRIED))


def _seen(webhook: WebhookStored, state: WebhookState) -> WebhookSeen:
    return WebhookSeen(**dict(webhook), state=state)


def delivery_page(rows: "Sequence[asyncpg.Record]", limit: int) -> DeliveryPage:
    cursor = str(rows[-1]["sequence"]) if len(rows) == limit else None
    return DeliveryPage(items=[DeliveryItem(**_item(row)) for row in rows], next_cursor=cursor)


def delivery_view(row: "asyncpg.Record", attempts: "Sequence[asyncpg.Record]") -> Delivery:
    tries = [Attempt(**{**one, "answer": one["answer"].decode("utf-8", "replace")}) for one in attempts]
    return Delivery(**_item(row), payload=row["body"].decode(), tries=tries)


def _item(row: "asyncpg.Record") -> dict[str, Any]:  # Any: the columns of a row
    found = {name: row[name] for name in DeliveryItem.model_fields}
    return {**found, "message_id": str(row["message_id"]), "account_id": row["account_id"] or None}
