"""Changes of webhooks: each is an event in the log, in the same transaction, and without the secret."""

import secrets as randomness
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import httpx

from contracts.changes import Author
from contracts.identifiers import uuid7
from contracts.notifications import BY_NAME
from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from contracts.webhooks import (
    SECRET_BYTES,
    WEBHOOKS_MAX,
    DisabledReason,
    SecretRotated,
    SecretRotation,
    Webhook,
    WebhookPut,
    WebhookStored,
    secret_bytes,
    secret_text,
)
from ledger_service.administration import log_change
from ledger_service.domain.authors import SYSTEM
from ledger_service.domain.ledger_events import (
    NO_ACCOUNT,
    WEBHOOK_CHANGED,
    WEBHOOK_DISABLED,
    WEBHOOK_REMOVED,
    WEBHOOK_SECRET_ROTATED,
    ledger_event,
)
from ledger_service.domain.notifications import may_subscribe
from ledger_service.resale import require_account
from ledger_service.store import webhooks as store
from ledger_service.store.deliveries import wake_endpoint
from ledger_service.store.event_log import append_one
from ledger_service.webhook_targets import Targets

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ledger_service.store.pool import Connection

#: Whose doing it is when the ledger disables an endpoint.
_LEDGER = Author(kind=SYSTEM, id="ledger")


async def change_webhook(
    connection: "Connection", account_id: str | None, webhook_id: str, wanted: Webhook, targets: Targets
) -> WebhookPut:
    """Makes an endpoint, of an account or (None) for all; or changes it, and enables it again, unless it is paused.

    What waits is sent at once to another address, which has not failed yet. The same again is no change, unless it was
    disabled. Raises ProblemError for an address that may not be sent to,
    types that are not for this owner, a second secret, or too many endpoints.
    """
    _refuse_types(wanted, account_id)
    targets.check(wanted.url)
    owner = account_id or NO_ACCOUNT
    async with connection.transaction():
        await require_account(connection, account_id)
        await store.lock_webhooks(connection)
        before = await store.find_webhook(connection, owner, webhook_id)
        if before is None:
            return await _make(connection, account_id, webhook_id, wanted)
        # Again, as it may just have been disabled.
        await store.lock_state(connection, owner, before.endpoint_id)
        before = await require_webhook(connection, account_id, webhook_id)
        await _refuse_other_secret(connection, before, wanted)
        stored = before.model_copy(
            update={
                "url": wanted.url,
                "types": sorted(set(wanted.types)),
                "description": wanted.description,
            }
        )
        if not before.is_paused:
            stored = enabled(stored)
        if stored != before:
            # While it was off it was told of nothing, and that is not made up for; a type that is added changes nothing
            # for the others, of which something may just be on its way.
            since = before.since if before.is_told else await store.read_now(connection)
            stored = stored.model_copy(update={"since": since})
            starts_anew = not before.is_told or stored.url != before.url
            stored = await put_change(connection, stored, WEBHOOK_CHANGED, starts_anew=starts_anew)
    return WebhookPut(**dict(stored))


async def put_change(
    connection: "Connection", changed: WebhookStored, event_type: str, *, starts_anew: bool
) -> WebhookStored:
    """Keeps another version of an endpoint, whose state is locked. ``starts_anew``: it has not failed yet, and what
    waits for it is due now (of one that is off, once it is on)."""
    owner = changed.account_id or NO_ACCOUNT
    stored = changed.model_copy(update={"version": changed.version + 1})
    await store.put_webhook(connection, stored)
    await log_change(connection, event_type, owner, stored)
    if starts_anew:
        await store.forget_failures(connection, owner, stored.endpoint_id)
        await wake_endpoint(connection, stored.endpoint_id)
    return stored


def enabled(webhook: WebhookStored) -> WebhookStored:
    return webhook.model_copy(update={"disabled_at": None, "disabled_reason": None})


async def _make(connection: "Connection", account_id: str | None, webhook_id: str, wanted: Webhook) -> WebhookPut:
    owner = account_id or NO_ACCOUNT
    if len(await store.list_webhooks(connection, owner)) >= WEBHOOKS_MAX:
        raise broken_rule("webhook_id", "webhooks_max", f"there are {WEBHOOKS_MAX} webhooks already: remove one first")
    now = await store.read_now(connection)
    stored = WebhookStored(
        account_id=account_id, webhook_id=webhook_id, endpoint_id=uuid7(), url=wanted.url,
        types=sorted(set(wanted.types)), description=wanted.description, version=1, since=now,
    )  # fmt: skip
    secret, made = _given_or_made(wanted.secret)
    await store.put_webhook(connection, stored)
    await store.add_state(connection, owner, stored.endpoint_id)
    await store.add_secret(connection, owner, stored.endpoint_id, uuid7(), secret, now)
    await log_change(connection, WEBHOOK_CHANGED, owner, stored)
    return WebhookPut(**dict(stored), secret=made)


async def remove_webhook(connection: "Connection", account_id: str | None, webhook_id: str) -> WebhookStored:
    """Nothing more is sent to it, and its deliveries are forgotten. Raises ProblemError (not_found)."""
    owner = account_id or NO_ACCOUNT
    async with connection.transaction():
        await store.lock_webhooks(connection)
        stored = await require_webhook(connection, account_id, webhook_id)
        await store.lock_state(connection, owner, stored.endpoint_id)
        await store.remove_webhook(connection, stored)
        await log_change(connection, WEBHOOK_REMOVED, owner, stored)
    return stored


async def rotate_secret(
    connection: "Connection", account_id: str | None, webhook_id: str, wanted: SecretRotation
) -> SecretRotated:
    """From now on deliveries are signed with another secret, and for a while with the one before, too.

    Raises ProblemError (not_found).
    """
    owner = account_id or NO_ACCOUNT
    async with connection.transaction():
        await store.lock_webhooks(connection)
        stored = await require_webhook(connection, account_id, webhook_id)
        until = await store.read_now(connection) + timedelta(seconds=wanted.overlap_seconds)
        secret, made = _given_or_made(wanted.secret)
        await store.add_secret(connection, owner, stored.endpoint_id, uuid7(), secret, until)
        rotated = SecretRotated(
            account_id=account_id, webhook_id=webhook_id, endpoint_id=stored.endpoint_id, previous_until=until
        )
        await log_change(connection, WEBHOOK_SECRET_ROTATED, owner, rotated)
    return rotated.model_copy(update={"secret": made})


async def disable_webhook(connection: "Connection", endpoint_id: UUID, reason: DisabledReason) -> WebhookStored | None:
    """By the ledger itself, within the transaction that found out, which has locked its state; None where it is off,
    paused or gone already."""
    stored = await store.lock_endpoint(connection, endpoint_id)
    if stored is None or stored.disabled_at is not None:
        return None
    now = await store.read_now(connection)
    disabled = stored.model_copy(update={"disabled_at": now, "disabled_reason": reason, "version": stored.version + 1})
    owner = disabled.account_id or NO_ACCOUNT
    await store.put_webhook(connection, disabled)
    event_id = uuid7()
    body = ledger_event(event_id, WEBHOOK_DISABLED, owner, now, disabled.model_dump(mode="json"), _LEDGER)
    await append_one(connection, owner, event_id, WEBHOOK_DISABLED, None, now, body)
    return disabled


async def require_webhook(connection: "Connection", account_id: str | None, webhook_id: str) -> WebhookStored:
    """Raises ProblemError (not_found)."""
    stored = await store.find_webhook(connection, account_id or NO_ACCOUNT, webhook_id)
    if stored is None:
        whose = f"account {account_id} has" if account_id else "there is"
        raise ProblemError(NOT_FOUND, f"{whose} no webhook {webhook_id}")
    return stored


def _refuse_types(wanted: Webhook, account_id: str | None) -> None:
    for place, name in enumerate(wanted.types):
        if not may_subscribe(BY_NAME[name], account_id or NO_ACCOUNT):
            raise broken_rule(
                f"types[{place}]", "audience", f"{name} may be about anybody: only an endpoint for all accounts gets it"
            )


async def _refuse_other_secret(connection: "Connection", before: WebhookStored, wanted: Webhook) -> None:
    if wanted.secret is None:
        return
    current = await store.read_secrets(connection, before.account_id or NO_ACCOUNT, before.endpoint_id)
    if secret_bytes(wanted.secret) not in current[:1]:
        raise broken_rule(
            "secret", "rotation", "it has another one: change it with :rotate-secret, so that none is lost"
        )


def _given_or_made(given: "SecretStr | None") -> tuple[bytes, str | None]:
    """The secret, and its text where it is to be shown."""
    if given is not None:
        return secret_bytes(given), None
    secret = randomness.token_bytes(SECRET_BYTES)
    return secret, secret_text(secret)


def host_of(url: str) -> str:
    """All of an address that is fit for logs: the rest may be as good as a secret."""
    try:
        return httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):  # the latter of a name in Punycode that says nothing
        return ""
