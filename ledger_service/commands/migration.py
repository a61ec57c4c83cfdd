"""`ledger migrate`: the schema and the stream, brought to this version."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated

import asyncpg
import nats.errors
import typer
from rich.console import Console

from contracts.exit_codes import ExitCode
from contracts.version import VERSION
from ledger_service.commands.database import own_settings
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.config import Settings
from ledger_service.price_loading import count, follow_shipped
from ledger_service.service_tokens import hashing_key, know_tokens
from ledger_service.store.migrations import MigrationError, check_schema, known_to_sessions
from ledger_service.store.migrations import migrate as migrate_database
from ledger_service.store.pool import reason_of
from ledger_service.store.privileges import let_read, let_serve
from ledger_service.stream import StreamConfigError, connect_nats, create_stream

console = Console(stderr=True, markup=False, emoji=False)


def migrate(
    database_only: Annotated[bool, typer.Option(help="Leave the NATS stream alone.")] = False,
    shipped_prices: Annotated[
        bool, typer.Option("--shipped-prices", help="Also follow the shipped list prices, where nobody put others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Brings the database's schema and the NATS stream to this version. Safe to run again."""
    settings = own_settings()
    try:
        done = asyncio.run(_migrate(settings, database_only, shipped_prices))
    except (MigrationError, StreamConfigError) as error:
        console.print(str(error), style="red")
        raise typer.Exit(ExitCode.FAILED) from None
    except (OSError, TimeoutError, nats.errors.Error) as error:
        console.print(f"cannot reach the servers: {reason_of(error)}", style="red")
        console.print("Check LEDGER_DATABASE_URL, LEDGER_OWNER_DATABASE_URL and LEDGER_NATS_URL.")
        raise typer.Exit(ExitCode.FAILED) from None
    if as_json:
        write_json(asdict(done))
    for change, number in done.shipped_prices.items():
        console.print(f"shipped prices {change}: {number}")
    for name in done.tokens_made_known:
        console.print(f"token made known: {name}")
    console.print(f"applied {', '.join(done.applied)}" if done.applied else "the schema is up to date")
    if done.newer:
        console.print(f"it has {', '.join(done.newer)} of a newer version, which version {VERSION} works with")


@dataclass
class _Done:
    """What was not as it should be, and is now."""

    applied: list[str]
    newer: list[str]
    shipped_prices: dict[str, int]
    tokens_made_known: list[str]


async def _migrate(settings: Settings, database_only: bool, shipped_prices: bool) -> _Done:
    owner = settings.owner_database_url
    applied = await migrate_database(owner or settings.database_url)
    if owner is not None:
        await let_serve(owner, settings.database_url)
    await let_read(owner or settings.database_url)
    prices = await _follow_shipped_prices(settings) if shipped_prices else {}
    tokens = await _know_tokens(settings) if settings.bootstrap_tokens else []
    if not database_only:
        connection = await connect_nats(settings.nats_access, "ledger-migrate")
        try:
            await create_stream(connection, settings.stream_replicas)
        finally:
            await connection.close()
    return _Done(applied, await _newer(settings), prices, tokens)


async def _newer(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return await check_schema(connection)
    finally:
        await connection.close()


async def _follow_shipped_prices(settings: Settings) -> dict[str, int]:
    connection = await asyncpg.connect(settings.database_url, server_settings=known_to_sessions())
    try:
        outcomes = await follow_shipped(connection)
    finally:
        await connection.close()
    return {str(change): number for change, number in count(outcomes).items()}


async def _know_tokens(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        key = await hashing_key(connection, settings.token_hash_key)
        made = await know_tokens(connection, key, settings.bootstrap_tokens)
    finally:
        await connection.close()
    return [token.name for token in made]
