"""The ``ledger`` command in this process: what it prints and its exit code, without a second of start for each call.

That it starts by itself, and what its signals and pipes do, is tested where a process of its own is run.
"""

import asyncio

from typer.testing import CliRunner, Result

from ledger_service.cli import app


def run_ledger(database_url: str, *arguments: str, stdin: bytes | None = None) -> Result:
    """Blocks; not within a running event loop."""
    environment = {"LEDGER_DATABASE_URL": database_url, "NO_COLOR": "1"}
    return CliRunner(env=environment).invoke(app, arguments, stdin)


async def ledger_command(database_url: str, *arguments: str, stdin: bytes | None = None) -> Result:
    return await asyncio.to_thread(run_ledger, database_url, *arguments, stdin=stdin)
