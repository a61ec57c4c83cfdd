"""`ledger tokens …`: service tokens from the command line."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.table import Table

from contracts.access.principal import Scope
from contracts.access.service_tokens import TokenMade, TokenRequest, TokenStored
from contracts.problems import ProblemError, describe, field_errors
from ledger_service.commands.database import messages, output, own_settings, shown, stop, with_database
from ledger_service.commands.database import moment as read_moment
from ledger_service.commands.json_output import AsJson, AsJsonLines, write_json, write_json_lines
from ledger_service.service_tokens import hashing_key, make_service_token, revoke_service_token
from ledger_service.store.pool import Connection
from ledger_service.store.service_tokens import find_token_id, list_tokens

app = typer.Typer(no_args_is_help=True, help="Service tokens: who may use the HTTP services, and for what.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who it is for, in one word; one token a name at a time.")],
    scope: Annotated[list[Scope] | None, typer.Option("--scope", help="What it may do; several times.")] = None,
    account_id: Annotated[
        str | None, typer.Option("--account", "--account-id", help="The only account that it is for; default: all.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="2027-01-01, or RFC 3339; default: never.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Or: in so many days.")] = None,
    file: Annotated[Path | None, typer.Option(help="Write it there, for its owner's eyes only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Makes a token, and prints it, this once. A pipe gets the token alone; with --file, standard output does not."""
    if not scope:
        raise typer.BadParameter(f"give --scope, once or more: {', '.join(Scope)}")
    if expires is not None and days is not None:
        raise typer.BadParameter("give either --expires or --days")
    ends = datetime.now(UTC) + timedelta(days=days) if days is not None else read_moment(expires)
    try:
        request = TokenRequest(name=name, scopes=scope, account_id=account_id, expires_at=ends)
    except ValidationError as error:
        raise typer.BadParameter(describe(field_errors(error))) from None
    if file is not None:
        _refuse_existing(file)

    async def work(connection: Connection) -> TokenMade:
        key = await hashing_key(connection, own_settings().token_hash_key)
        return await make_service_token(connection, key, request)

    try:
        made = with_database(work)
    except ProblemError as error:
        raise stop(error.problem.detail) from None
    about = f"account {made.account_id}" if made.account_id else "all accounts"
    messages().print(f"{made.name}: {', '.join(made.scopes)}; {about}; {_end(made)}. It is shown only now.")
    if as_json:
        write_json(made.model_dump(mode="json", exclude=set() if file is None else {"token"}))
    elif file is None:
        typer.echo(made.token)
    if file is not None:
        _write(file, made.token)
        messages().print(f"written to {file}", soft_wrap=True)


@app.command("list")
def list_(
    ended: Annotated[bool, typer.Option("--ended", help="Also those that are revoked or expired.")] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Shows all tokens, without themselves."""
    found = with_database(lambda connection: list_tokens(connection, also_ended=ended))
    if as_json:
        write_json_lines(found)
        return
    table = Table("id", "name", "scopes", "account", "made", "ends")
    for token in found:
        table.add_row(
            token.token_id,
            token.name,
            ", ".join(token.scopes),
            token.account_id or "all",
            shown(token.created_at),
            _end(token),
        )
    output().print(table)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="NAME|ID", help="Of the token.")], as_json: AsJson = False
) -> None:
    """Revokes a token: services refuse it once they ask again, within LEDGER_TOKEN_SECONDS and IMAGE_TOKEN_SECONDS."""

    async def work(connection: Connection) -> TokenStored:
        token_id = await find_token_id(connection, token) or _as_id(token)
        return await revoke_service_token(connection, token_id)

    try:
        revoked = with_database(work)
    except ProblemError as error:
        raise stop(error.problem.detail) from None
    if as_json:
        write_json(revoked)
    messages().print(f"revoked: {revoked.name} ({revoked.token_id})")


def _as_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        _unknown(text)


def _unknown(text: str) -> NoReturn:
    raise stop(f"no token has the name {text}", "`ledger tokens list` shows those that there are.")


def _end(token: TokenStored) -> str:
    if token.revoked_at is not None:
        return f"revoked {shown(token.revoked_at)}"
    return f"until {shown(token.expires_at)}" if token.expires_at else "for ever"


def _refuse_existing(file: Path) -> None:
    if file.exists():
        raise stop(f"{file} is there already; nothing was made")


def _write(file: Path, token: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(f"{token}\n")
