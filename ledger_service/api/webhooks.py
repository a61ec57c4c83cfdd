"""Webhooks: endpoints for all accounts and for one, and each delivery to them. The routes of both are the same."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Query, Request, Response

from contracts.identifiers import Name, uuid7
from contracts.webhooks import (
    Delivery,
    DeliveryItem,
    DeliveryPage,
    DeliveryState,
    Redelivered,
    Redelivery,
    SecretRotated,
    SecretRotation,
    Webhook,
    WebhookPut,
    Webhooks,
    WebhookSeen,
    WebhookStored,
)
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.moments import writing
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.services import Services, services
from ledger_service.store.deliveries import find_delivery, list_attempts, list_deliveries
from ledger_service.store.pool import Connection
from ledger_service.webhook_administration import change_webhook, remove_webhook, require_webhook, rotate_secret
from ledger_service.webhook_follow import no_delivery, redeliver_from, redeliver_some, send_trial
from ledger_service.webhook_pausing import pause_webhook, resume_webhook
from ledger_service.webhook_views import delivery_page, delivery_view, seen_webhook, seen_webhooks

log = structlog.get_logger()
router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["webhooks"])

Wired = Annotated[Services, Depends(services)]
#: An answer with a secret in it is kept by nobody on its way.
_NOT_KEPT: Final = {"Cache-Control": "no-store"}


async def _for_all() -> str | None:
    return None


async def _for_account(account_id: Name) -> str | None:
    return account_id


def _add_routes(prefix: str, whose: Callable[..., Awaitable[str | None]]) -> None:
    Owner = Annotated[str | None, Depends(whose)]  # noqa: N806  a type

    @router.get(f"{prefix}/webhooks")
    async def list_webhooks(account: Owner, wired: Wired) -> Webhooks:
        """The endpoints and how each goes: what is to be sent, since when it fails, whether it is disabled."""
        async with wired.reads.acquire() as connection:
            return Webhooks(items=await seen_webhooks(connection, account))

    @router.put(f"{prefix}/webhooks/{{webhook_id}}", openapi_extra=json_body(Webhook))
    async def write_webhook(
        webhook_id: Name, account: Owner, request: Request, wired: Wired, response: Response
    ) -> WebhookPut:
        """Where notifications of these ``types`` go from now on. Of a new endpoint the answer has the ``secret`` that
        deliveries are signed with, unless it was given: this once. One that is disabled is enabled again (one that is
        paused stays so). What was still to be sent then goes out at once, as with another address. The same again
        changes nothing."""
        wanted = await read_model(request, Webhook, CHECK_BYTES_MAX)
        response.headers.update(_NOT_KEPT)
        async with writing(wired.reads, response) as connection:
            return await change_webhook(connection, account, webhook_id, wanted, wired.targets)

    @router.get(f"{prefix}/webhooks/{{webhook_id}}")
    async def read_webhook(webhook_id: Name, account: Owner, wired: Wired) -> WebhookSeen:
        """One endpoint, and how it goes."""
        async with wired.reads.acquire() as connection:
            return await seen_webhook(connection, await require_webhook(connection, account, webhook_id))

    @router.delete(f"{prefix}/webhooks/{{webhook_id}}")
    async def delete_webhook(webhook_id: Name, account: Owner, wired: Wired, response: Response) -> WebhookStored:
        """Nothing more is sent there, and what is known of its deliveries is forgotten."""
        async with writing(wired.reads, response) as connection:
            return await remove_webhook(connection, account, webhook_id)

    @router.post(f"{prefix}/webhooks/{{webhook_id}}:pause")
    async def pause_webhook_(webhook_id: Name, account: Owner, wired: Wired, response: Response) -> WebhookSeen:
        """Sends nothing more there until ``:resume``; what is on its way arrives. What waits, and what happens
        meanwhile, is queued. One that is paused stays so; 409 (``webhook_disabled``) where it is off for a failure."""
        async with writing(wired.reads, response) as connection:
            return await seen_webhook(connection, await pause_webhook(connection, account, webhook_id))

    @router.post(f"{prefix}/webhooks/{{webhook_id}}:resume")
    async def resume_webhook_(webhook_id: Name, account: Owner, wired: Wired, response: Response) -> WebhookSeen:
        """Ends a pause: what was queued goes out at once, in order per account. It also enables what is off for a
        failure, as putting it again does; what happened meanwhile is then for ``:redeliver``. One that is neither
        stays as it is."""
        async with writing(wired.reads, response) as connection:
            return await seen_webhook(connection, await resume_webhook(connection, account, webhook_id))

    @router.post(
        f"{prefix}/webhooks/{{webhook_id}}:rotate-secret",
        openapi_extra=json_body(SecretRotation),
    )
    async def rotate_webhook_secret(
        webhook_id: Name, account: Owner, request: Request, wired: Wired, response: Response
    ) -> SecretRotated:
        """Another secret, made by the ledger and shown this once, or given. Deliveries are signed with it and, for
        ``overlap_seconds``, with the one before."""
        wanted = await read_model(request, SecretRotation, CHECK_BYTES_MAX)
        response.headers.update(_NOT_KEPT)
        async with writing(wired.reads, response) as connection:
            return await rotate_secret(connection, account, webhook_id, wanted)

    @router.post(f"{prefix}/webhooks/{{webhook_id}}:test")
    async def try_webhook(webhook_id: Name, account: Owner, wired: Wired) -> DeliveryItem:
        """Sends a notification of the type ``webhook.test``, in its turn; its delivery says what came of it."""
        message_id = uuid7()
        async with wired.reads.acquire() as connection:
            webhook = await require_webhook(connection, account, webhook_id)
            await send_trial(connection, webhook, message_id)
            return await _delivery(connection, webhook, message_id)

    @router.post(f"{prefix}/webhooks/{{webhook_id}}:redeliver", openapi_extra=json_body(Redelivery))
    async def redeliver_since(webhook_id: Name, account: Owner, request: Request, wired: Wired) -> Redelivered:
        """Sends again what was recorded from a moment on: what failed, what was never sent, with ``delivered`` all of
        it. Receivers know what they have by its ``webhook-id``. ``next_cursor``: ask again with it, for the rest."""
        wanted = await read_model(request, Redelivery, CHECK_BYTES_MAX)
        async with wired.reads.acquire() as connection:
            webhook = await require_webhook(connection, account, webhook_id)
            done = await redeliver_from(connection, webhook, wanted)
        log.info("webhook_redelivered", webhook=webhook_id, account=account, queued=done.queued)
        return done

    @router.get(f"{prefix}/webhooks/{{webhook_id}}/deliveries")
    async def read_deliveries(
        webhook_id: Name,
        account: Owner,
        wired: Wired,
        state: Annotated[
            list[DeliveryState] | None, Query(max_length=3, description="several times: any of them")
        ] = None,
        type: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z_.]+$")] = None,  # noqa: A002
        about: Annotated[Name | None, Query(description="an account: what is about it")] = None,
        cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> DeliveryPage:
        """What was sent there, or is to be, newest first. ``next_cursor`` goes on where a page ended."""
        states = [one.value for one in state] if state else None
        async with wired.reads.acquire() as connection:
            webhook = await require_webhook(connection, account, webhook_id)
            before = int(cursor) if cursor else None
            rows = await list_deliveries(connection, webhook.endpoint_id, before, limit, states, type, about)
        return delivery_page(rows, limit)

    @router.get(f"{prefix}/webhooks/{{webhook_id}}/deliveries/{{message_id}}")
    async def read_delivery(webhook_id: Name, message_id: UUID, account: Owner, wired: Wired) -> Delivery:
        """One delivery: its payload and each attempt, with the first bytes of what was answered."""
        async with wired.reads.acquire() as connection:
            webhook = await require_webhook(connection, account, webhook_id)
            row = await find_delivery(connection, webhook.endpoint_id, message_id)
            if row is None:
                raise no_delivery(message_id)
            return delivery_view(
                row, await list_attempts(connection, row["account_id"], webhook.endpoint_id, message_id)
            )

    @router.post(f"{prefix}/webhooks/{{webhook_id}}/deliveries/{{message_id}}:redeliver")
    async def redeliver_one(webhook_id: Name, message_id: UUID, account: Owner, wired: Wired) -> DeliveryItem:
        """Sends it once more, whatever became of it, under the same ``webhook-id``."""
        async with wired.reads.acquire() as connection:
            webhook = await require_webhook(connection, account, webhook_id)
            await redeliver_some(connection, webhook, [message_id])
            return await _delivery(connection, webhook, message_id)


async def _delivery(connection: Connection, webhook: WebhookStored, message_id: UUID) -> DeliveryItem:
    row = await find_delivery(connection, webhook.endpoint_id, message_id)
    if row is None:
        raise no_delivery(message_id)
    return delivery_page([row], 2).items[0]


_add_routes("", _for_all)
_add_routes("/accounts/{account_id}", _for_account)
