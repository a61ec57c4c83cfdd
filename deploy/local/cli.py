"""usage-stack: everything on this machine."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from contracts.version import VERSION
from deploy.local.errors import StackError
from deploy.local.folder import StackState, read_state, running_pid
from deploy.local.stack import Stack, StackOptions, external_servers

DOWN_TIMEOUT_SECONDS = 90.0
DOWN_POLL_SECONDS = 0.1

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Data = Annotated[Path, typer.Option(help="The data folder.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 = a free one.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def usage_stack(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    """Everything on this machine."""


def _say(text: str) -> None:
    typer.echo(text, err=True)


@app.command()
def up(
    data: Annotated[Path | None, typer.Option(help="The data folder; made if need be.")] = None,
    throwaway: Annotated[bool, typer.Option("--throwaway", help="A new data folder, removed at the end.")] = False,
    ledger_port: Port = 8001,
    image_port: Port = 8000,
    postgres_port: Port = 0,
    nats_port: Port = 0,
    emulate_providers: Annotated[
        bool, typer.Option("--emulate-providers", help="Emulators in place of the paid providers: no keys, no costs.")
    ] = False,
    emulators_port: Port = 0,
) -> None:
    """Start PostgreSQL, NATS and both services, and keep them up until Ctrl-C or SIGTERM.

    Prints one line, `ready`, when both services are, and writes their addresses to stack.json in the data folder. A
    token for all of both is in its dev-token, made on the first start: send it as `Authorization: Bearer …`.
    LEDGER_DATABASE_URL, LEDGER_NATS_URL, IMAGE_NATS_URL and IMAGE_LEDGER_URL name servers to use instead of ours.
    """
    if (data is None) == (not throwaway):
        _say("usage-stack: give either --data DIR or --throwaway.")
        raise typer.Exit(2)
    folder = data or Path(tempfile.mkdtemp(prefix="usage-stack-"))
    options = StackOptions(
        data_dir=folder,
        ledger_port=ledger_port,
        image_port=image_port,
        postgres_port=postgres_port,
        nats_port=nats_port,
        emulate_providers=emulate_providers,
        emulators_port=emulators_port,
        external=external_servers(),
        console=sys.stderr.isatty(),
    )
    try:
        code = asyncio.run(run_until_stopped(options))
    finally:
        if throwaway:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(code)


async def run_until_stopped(options: StackOptions) -> int:
    """The exit code: 0 after Ctrl-C or SIGTERM, else that of the error, which was said on standard error."""
    stop_wanted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(wanted, stop_wanted.set)
    stack = Stack(options, _say)
    work = asyncio.create_task(_serve(stack, options.data_dir))
    stopping = asyncio.create_task(stop_wanted.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    except StackError as error:
        _say(f"usage-stack: {error}")
        return error.exit_code
    finally:
        for task in (work, stopping):
            task.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)
        await stack.stop()
    return 0


async def _serve(stack: Stack, data_dir: Path) -> None:
    await stack.start()
    if sys.stderr.isatty():
        _show(stack.state, data_dir, Console(stderr=True))
        _say("Ctrl-C stops all.")
    print("ready", flush=True)  # noqa: T201 - the one line on standard output
    await stack.wait()


def _show(state: StackState, data_dir: Path, console: Console) -> None:
    table = Table("", "address", "pid", title="usage-stack", title_justify="left")
    addresses = {"image": state.image_url, "ledger": state.ledger_url, "nats": state.nats_url}
    addresses["postgres"] = (state.database_url or "").rpartition("@")[2]  # without the password
    for name, address in addresses.items():
        table.add_row(name, address.rpartition("@")[2], str(getattr(state.pids, name) or "elsewhere"))
    if state.emulator_urls is not None:
        table.add_row("emulators", state.emulator_urls["control"], str(state.emulator_pid))
    console.print(table)
    where = (
        f"Data in {data_dir}; a token for everything in its dev-token, passwords in its stack.json, logs in its logs/."
    )
    console.print(where, markup=False, highlight=False, soft_wrap=True)


@app.command()
def status(data: Data) -> None:
    """Whether a stack runs on the folder (exit code 0, else 1), and where it answers."""
    state = read_state(data)
    if running_pid(data) is None:
        _say(f"No stack runs on {data}.")
        raise typer.Exit(1)
    if state is None:
        _say(f"The stack on {data} is starting or stopping.")
        raise typer.Exit(1)
    _show(state, data, Console())


@app.command()
def down(data: Data) -> None:
    """Stop the stack that runs on the folder, and wait until it is gone."""
    pid = running_pid(data)
    if pid is None:
        _say(f"No stack runs on {data}.")
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if running_pid(data) is None:
            return
        time.sleep(DOWN_POLL_SECONDS)
    _say(f"The stack on {data} (pid {pid}) did not stop within {DOWN_TIMEOUT_SECONDS:g} s.")
    raise typer.Exit(1)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
