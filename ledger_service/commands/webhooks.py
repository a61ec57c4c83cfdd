"""`ledger webhooks …`: how endpoints go, what was sent to them, and sending it again."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts.exit_codes import ExitCode
from contracts.identifiers import uuid7
from contracts.webhooks import Delivery, DeliveryItem, DeliveryState, Redelivery, WebhookSeen, WebhookStored
from ledger_service.commands.database import answer_or_stop, messages, moment, output, read_options, shown, stop
from ledger_service.commands.json_output import AsJson, AsJsonLines, write_json, write_json_lines
from ledger_service.store.deliveries import find_delivery, list_attempts, list_deliveries
from ledger_service.store.pool import Connection
from ledger_service.webhook_administration import require_webhook
from ledger_service.webhook_follow import no_delivery, redeliver_from, redeliver_some, send_trial
from ledger_service.webhook_pausing import pause_webhook, resume_webhook
from ledger_service.webhook_views import delivery_page, delivery_view, seen_webhook, seen_webhooks

app = typer.Typer(no_args_is_help=True, help="Webhooks: how endpoints go, and what was sent to them.")

PAGE_ROWS: Final = 50
POLL_SECONDS: Final = 0.1
_COLOURS: Final = {DeliveryState.PENDING: "yellow", DeliveryState.DELIVERED: "green", DeliveryState.FAILED: "bold red"}

Webhook = Annotated[str, typer.Argument(help="The endpoint's name.")]
Account = Annotated[str | None, typer.Option("--account", help="One of this account; default: of those for all.")]


@app.command("list")
def list_(account: Account = None, as_json: AsJsonLines = False) -> None:
    """Shows the endpoints and how each goes. Exit 1 where any is disabled; one that is paused is meant to be."""
    found = answer_or_stop(lambda connection: seen_webhooks(connection, account))
    if as_json:
        write_json_lines(found)
    elif not found:
        messages().print("no webhooks; PUT /v1/webhooks/NAME makes one: deploy/guides/webhooks.md")
    else:
        output().print(_endpoints(found))
    if any(not one.is_told for one in found):
        messages().print("what is disabled gets nothing: mend the receiver, then `ledger webhooks resume NAME`")
        raise typer.Exit(ExitCode.FAILED)


@app.command("pause")
def pause_(webhook: Webhook, account: Account = None, as_json: AsJson = False) -> None:
    """Sends nothing more to an endpoint until it is resumed; what waits, and what happens meanwhile, is queued."""
    found = answer_or_stop(lambda connection: _paused(connection, account, webhook))
    if as_json:
        write_json(found)
    else:
        waiting = f"{found.state.pending:,} wait for it"
        messages().print(f"{webhook} is paused: {waiting}; `ledger webhooks resume {webhook}` sends them, in order")


@app.command("resume")
def resume_(webhook: Webhook, account: Account = None, as_json: AsJson = False) -> None:
    """Ends a pause: what was queued goes out at once, in order. It also enables an endpoint that was disabled."""
    found = answer_or_stop(lambda connection: _resumed(connection, account, webhook))
    if as_json:
        write_json(found)
    else:
        messages().print(f"{webhook} is enabled: {found.state.pending:,} are to be sent now")


@app.command()
def deliveries(
    webhook: Webhook,
    account: Account = None,
    state: Annotated[list[DeliveryState] | None, typer.Option(help="In this state; several times: any.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Of this type, limit_check.denied for one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many, newest first.")] = PAGE_ROWS,
    cursor: Annotated[int | None, typer.Option(min=0, help="Goes on where an earlier page ended.")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Shows what was sent to an endpoint, or is to be, newest first."""

    async def read(connection: Connection) -> tuple[list[DeliveryItem], str | None]:
        found = await require_webhook(connection, account, webhook)
        states = [one.value for one in state] if state else None
        rows = await list_deliveries(connection, found.endpoint_id, cursor, limit, states, type_, None)
        page = delivery_page(rows, limit)
        return page.items, page.next_cursor

    items, more = answer_or_stop(read)
    if as_json:
        write_json_lines(items)
    elif not items:
        messages().print("nothing was sent to it, or all of it is longer ago than deliveries are kept")
    else:
        output().print(_deliveries(items))
    if more:
        messages().print(f"`--cursor {more}` goes on with older ones")


@app.command()
def show(
    webhook: Webhook,
    message: Annotated[UUID, typer.Argument(help="The delivery's webhook-id.")],
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """Shows one delivery: its payload, and each attempt with what was answered."""
    found = answer_or_stop(lambda connection: _one(connection, account, webhook, message))
    if as_json:
        write_json(found)
        return
    output().print(_deliveries([found]))
    output().print(Text(found.payload))
    table = Table("attempt", "at", "ms", "status", "error", "answer", header_style="bold")
    for one in found.tries:
        status = "" if one.status is None else str(one.status)
        cells = (str(one.attempt), shown(one.started_at), f"{one.duration_ms:,}", status, one.error or "", one.answer)
        table.add_row(*(Text(cell) for cell in cells))
    output().print(table)


@app.command("redeliver")
def redeliver_(
    webhook: Webhook,
    messages_: Annotated[list[UUID] | None, typer.Argument(metavar="[MESSAGE]...", help="webhook-ids.")] = None,
    account: Account = None,
    start: Annotated[str | None, typer.Option("--from", help="Or what was recorded then or later.")] = None,
    delivered: Annotated[bool, typer.Option("--delivered", help="With --from: also what had arrived.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sends deliveries again, under the same webhook-id: some, or what failed and was never sent from a moment on."""
    since = moment(start)
    if bool(messages_) == (since is not None):
        raise typer.BadParameter("give either webhook-ids or --from")
    if since is None:
        queued = answer_or_stop(lambda connection: _again(connection, account, webhook, messages_ or []))
    else:
        asked = read_options(Redelivery, {"from": since, "delivered": delivered})
        queued = answer_or_stop(lambda connection: _all_again(connection, account, webhook, asked))
    if as_json:
        write_json({"queued": queued})
    else:
        messages().print(f"{queued:,} are to be sent again; `ledger webhooks deliveries {webhook}` shows how that goes")


@app.command("test")
def try_(
    webhook: Webhook,
    account: Account = None,
    wait_seconds: Annotated[float, typer.Option(min=0, help="For what comes of it.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Has a running ledger send a notification of the type webhook.test. Exit 1 where it does not arrive in time, at
    once where the endpoint is paused or disabled."""

    async def work(connection: Connection) -> tuple[Delivery, str | None]:
        message_id = uuid7()
        await send_trial(connection, await require_webhook(connection, account, webhook), message_id)
        until = time.monotonic() + wait_seconds
        while True:
            # Before the delivery: one that is not to be sent even so waits for whoever enables the endpoint.
            off = _why_off(await require_webhook(connection, account, webhook))
            found = await _one(connection, account, webhook, message_id)
            is_held = off is not None and found.next_attempt_at is None
            if found.attempts or is_held or time.monotonic() >= until:
                return found, off
            await asyncio.sleep(POLL_SECONDS)

    found, off = answer_or_stop(work)
    if as_json:
        write_json(found)
    elif not found.tries and off:
        raise stop(
            f"nothing was sent: {webhook} is {off}",
            f"`ledger webhooks resume {webhook}` enables it, and what waits is sent then, this too.",
        )
    elif not found.tries:
        raise stop(
            f"nothing was sent within {wait_seconds:g} s",
            "Does a ledger run? Earlier deliveries go first (`ledger webhooks list` counts them).",
        )
    else:
        [last, *_] = found.tries
        said = last.error or f"answered {last.status}"
        messages().print(f"{webhook}: {said} after {last.duration_ms:,} ms", markup=False)
    if found.state is not DeliveryState.DELIVERED:
        raise typer.Exit(ExitCode.FAILED)


def _why_off(webhook: WebhookStored) -> str | None:
    if webhook.disabled_at is None:
        return None
    return "paused" if webhook.is_paused else f"disabled, as {webhook.disabled_reason}"


async def _paused(connection: Connection, account: str | None, webhook: str) -> WebhookSeen:
    return await seen_webhook(connection, await pause_webhook(connection, account, webhook))


async def _resumed(connection: Connection, account: str | None, webhook: str) -> WebhookSeen:
    return await seen_webhook(connection, await resume_webhook(connection, account, webhook))


async def _one(connection: Connection, account: str | None, webhook: str, message_id: UUID) -> Delivery:
    found = await require_webhook(connection, account, webhook)
    row = await find_delivery(connection, found.endpoint_id, message_id)
    if row is None:
        raise no_delivery(message_id)
    return delivery_view(row, await list_attempts(connection, row["account_id"], found.endpoint_id, message_id))


async def _again(connection: Connection, account: str | None, webhook: str, ids: Sequence[UUID]) -> int:
    await redeliver_some(connection, await require_webhook(connection, account, webhook), ids)
    return len(ids)


async def _all_again(connection: Connection, account: str | None, webhook: str, asked: Redelivery) -> int:
    found: WebhookStored = await require_webhook(connection, account, webhook)
    queued, screen = 0, messages()
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} queued"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        while True:
            done = await redeliver_from(connection, found, asked)
            queued += done.queued
            progress.update(bar, completed=queued)
            if done.next_cursor is None:
                return queued
            asked = asked.model_copy(update={"cursor": done.next_cursor})


def _endpoints(found: Sequence[WebhookSeen]) -> Table:
    table = Table("webhook", "goes to", "types", "to be sent", "last delivered", "state", header_style="bold")
    for one in found:
        if one.is_paused:
            state = Text(f"paused {shown(one.disabled_at)}", style="yellow")
        elif one.disabled_at:
            state = Text(f"disabled {shown(one.disabled_at)}: {one.disabled_reason}", style="bold red")
        elif one.state.failing_since:
            state = Text(f"fails since {shown(one.state.failing_since)}: {one.state.last_error}", style="yellow")
        else:
            state = Text("ok", style="green")
        table.add_row(
            one.webhook_id, Text(one.url, overflow="fold"), ", ".join(one.types), f"{one.state.pending:,}",
            shown(one.state.last_delivered_at), state,
        )  # fmt: skip
    return table


def _deliveries(items: Sequence[DeliveryItem]) -> Table:
    table = Table(header_style="bold")
    table.add_column("webhook-id", no_wrap=True, min_width=len(str(items[0].message_id)))  # whole, to be copied
    for title in ("type", "account", "happened", "state", "attempts", "next"):
        table.add_column(title)
    for one in items:
        table.add_row(
            str(one.message_id), one.type, one.account_id or "", shown(one.occurred_at),
            Text(one.state, style=_COLOURS[one.state]), str(one.attempts), shown(one.next_attempt_at),
        )  # fmt: skip
    return table
