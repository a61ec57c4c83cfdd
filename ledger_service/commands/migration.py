"""`ledger migrate`: the schema and the stream, brought to this version."""

import asyncio
from typing import Annotated

import asyncpg
import nats.errors
import typer
from rich.console import Console

from contracts.version import VERSION
from ledger_service.config import Settings
from ledger_service.price_loading import count, follow_shipped
from ledger_service.service_tokens import hashing_key, know_tokens
from ledger_service.store.migrations import MigrationError, check_schema, known_to_sessions
from ledger_service.store.migrations import migrate as migrate_database
from ledger_service.store.privileges import let_read, let_serve
from ledger_service.stream import StreamConfigError, connect_nats, create_stream

console = Console(stderr=True)


def migrate(
    database_only: Annotated[bool, typer.Option(help="Leave the NATS stream alone.")] = False,
    shipped_prices: Annotated[
        bool, typer.Option("--shipped-prices", help="Also follow the shipped list prices, where nobody put others.")
    ] = False,
) -> None:
    """Brings the database's schema and the NATS stream to this version. Safe to run again."""
    settings = Settings()
    try:
        applied, newer = asyncio.run(_migrate(settings, database_only, shipped_prices))
    except (MigrationError, StreamConfigError) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except (OSError, TimeoutError, nats.errors.Error) as error:
        reason = str(error) or type(error).__name__
        console.print(f"[red]cannot reach the servers: {reason}[/red]")
        console.print("Check LEDGER_DATABASE_URL, LEDGER_OWNER_DATABASE_URL and LEDGER_NATS_URL.")
        raise typer.Exit(1) from None
    console.print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")
    if newer:
        console.print(f"it has {', '.join(newer)} of a newer version, which version {VERSION} works with")


async def _migrate(settings: Settings, database_only: bool, shipped_prices: bool) -> tuple[list[str], list[str]]:
    owner = settings.owner_database_url
    applied = await migrate_database(owner or settings.database_url)
    if owner is not None:
        await let_serve(owner, settings.database_url)
    await let_read(owner or settings.database_url)
    if shipped_prices:
        await _follow_shipped_prices(settings)
    if settings.bootstrap_tokens:
        await _know_tokens(settings)
    if not database_only:
        connection = await connect_nats(settings.nats_access, "ledger-migrate")
        try:
            await create_stream(connection, settings.stream_replicas)
        finally:
            await connection.close()
    return applied, await _newer(settings)


async def _newer(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return await check_schema(connection)
    finally:
        await connection.close()


async def _follow_shipped_prices(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url, server_settings=known_to_sessions())
    try:
        outcomes = await follow_shipped(connection)
    finally:
        await connection.close()
    for change, number in count(outcomes).items():
        console.print(f"shipped prices {change}: {number}")


async def _know_tokens(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        key = await hashing_key(connection, settings.token_hash_key)
        made = await know_tokens(connection, key, settings.bootstrap_tokens)
    finally:
        await connection.close()
    for token in made:
        console.print(f"token made known: {token.name}")
