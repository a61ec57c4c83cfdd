"""The ``ledger`` command."""

import asyncio
from typing import Annotated

import nats.errors
import typer
from rich.console import Console

from ledger_service.config import Settings
from ledger_service.store.migrations import MigrationError
from ledger_service.store.migrations import migrate as migrate_database
from ledger_service.stream import StreamConfigError, connect_nats, create_stream

app = typer.Typer(
    no_args_is_help=True, help="Works on a ledger's database and stream; see LEDGER_* for where they are."
)
console = Console(stderr=True)


@app.callback()
def _ledger() -> None:
    """Keeps `migrate` a subcommand while it is the only one."""


@app.command()
def migrate(
    database_only: Annotated[bool, typer.Option(help="Leave the NATS stream alone.")] = False,
) -> None:
    """Brings the database's schema and the NATS stream to this version. Safe to run again."""
    settings = Settings()
    try:
        applied = asyncio.run(_migrate(settings, database_only))
    except (MigrationError, StreamConfigError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    except (OSError, TimeoutError, nats.errors.Error) as error:
        reason = str(error) or type(error).__name__
        console.print(f"[red]cannot reach the servers: {reason}[/red]")
        console.print("Check LEDGER_DATABASE_URL and LEDGER_NATS_URL.")
        raise typer.Exit(1) from None
    console.print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


async def _migrate(settings: Settings, database_only: bool) -> list[str]:
    applied = await migrate_database(settings.database_url)
    if not database_only:
        connection = await connect_nats(settings.nats_url, "ledger-migrate")
        try:
            await create_stream(connection, settings.stream_replicas)
        finally:
            await connection.close()
    return applied


def main() -> None:
    app()


if __name__ == "__main__":
    main()
