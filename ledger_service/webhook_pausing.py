"""Endpoints that are paused by hand and resumed: nothing is sent meanwhile, and what happens is queued."""

from typing import TYPE_CHECKING

from contracts.problems import WEBHOOK_DISABLED, ProblemError
from contracts.webhooks import DisabledReason, WebhookStored
from ledger_service.domain import ledger_events as events
from ledger_service.store import webhooks as store
from ledger_service.webhook_administration import enabled, put_change, require_webhook

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection


async def pause_webhook(connection: "Connection", account_id: str | None, webhook_id: str) -> WebhookStored:
    """Nothing more is sent there until it is resumed; what is on its way arrives. One that is paused stays as it is.

    Raises ProblemError: not_found, or webhook_disabled where it is off for a failure.
    """
    async with connection.transaction():
        before = await _locked(connection, account_id, webhook_id)
        if before.is_paused:
            return before
        if before.disabled_at is not None:
            reason = before.disabled_reason.value if before.disabled_reason else "disabled"
            raise ProblemError(
                WEBHOOK_DISABLED, f"webhook {webhook_id} is off already, as {reason}: it cannot be paused"
            )
        now = await store.read_now(connection)
        paused = before.model_copy(update={"disabled_at": now, "disabled_reason": DisabledReason.PAUSED})
        return await put_change(connection, paused, events.WEBHOOK_DISABLED, starts_anew=False)


async def resume_webhook(connection: "Connection", account_id: str | None, webhook_id: str) -> WebhookStored:
    """What waits is due now, in order per account; how long it failed before is forgotten. It also enables what is
    off for a failure, which is told of what happens from now on. One that is on stays as it is.

    Raises ProblemError (not_found).
    """
    async with connection.transaction():
        before = await _locked(connection, account_id, webhook_id)
        if before.disabled_at is None:
            return before
        since = before.since if before.is_told else await store.read_now(connection)
        resumed = enabled(before).model_copy(update={"since": since})
        return await put_change(connection, resumed, events.WEBHOOK_CHANGED, starts_anew=True)


async def _locked(connection: "Connection", account_id: str | None, webhook_id: str) -> WebhookStored:
    """As it is, and nobody changes it or writes down what came of a delivery until the transaction ends."""
    await store.lock_webhooks(connection)
    stored = await require_webhook(connection, account_id, webhook_id)
    await store.lock_state(connection, account_id or events.NO_ACCOUNT, stored.endpoint_id)
    # Again, as it may just have been disabled.
    return await require_webhook(connection, account_id, webhook_id)
