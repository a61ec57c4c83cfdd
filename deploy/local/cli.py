"""usage-stack: everything on this machine."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from contracts.exit_codes import EXIT_CODES, ExitCode
from contracts.version import VERSION
from deploy.local.errors import StackError
from deploy.local.folder import StackState, read_environment, read_state, running_pid
from deploy.local.stack import LEDGER_ENVIRONMENT_FILE, Stack, StackOptions, external_servers
from ledger_service.commands.json_output import AsJson, write_json

DOWN_TIMEOUT_SECONDS = 90.0
DOWN_POLL_SECONDS = 0.1
#: What `ledger doctor` expects of production alone: a stack is copied as a folder, while it is stopped.
ACCEPTED = ("postgres.archiving",)

app = typer.Typer(no_args_is_help=True, help=__doc__, epilog=EXIT_CODES)
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
    as_json: AsJson = False,
) -> None:
    """Start PostgreSQL, NATS and both services, and keep them up until Ctrl-C or SIGTERM.

    Prints one line, `ready`, when both services are (with --json, where they answer), and writes their addresses to
    stack.json in the data folder. A token for all of both is in its dev-token, made on the first start: send it as
    `Authorization: Bearer …`. What makes the `ledger` command work on this stack is in its ledger.env.
    LEDGER_DATABASE_URL, LEDGER_NATS_URL, IMAGE_NATS_URL and IMAGE_LEDGER_URL name servers to use instead of ours.
    """
    if (data is None) == (not throwaway):
        _say("usage-stack: give either --data DIR or --throwaway.")
        raise typer.Exit(ExitCode.WRONG_OPTIONS)
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
        code = asyncio.run(run_until_stopped(options, as_json=as_json))
    finally:
        if throwaway:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(code)


async def run_until_stopped(options: StackOptions, *, as_json: bool = False) -> int:
    """The exit code: 0 after Ctrl-C or SIGTERM, else that of the error, which was said on standard error."""
    stop_wanted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(wanted, stop_wanted.set)
    stack = Stack(options, _say)
    work = asyncio.create_task(_serve(stack, options.data_dir, as_json))
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


async def _serve(stack: Stack, data_dir: Path, as_json: bool) -> None:
    await stack.start()
    if sys.stderr.isatty():
        _show(stack.state, data_dir, Console(stderr=True))
        _say("Ctrl-C stops all.")
    if as_json:
        write_json({"ready": True, **_addresses(stack.state, data_dir)})
    else:
        typer.echo("ready")
    sys.stdout.flush()
    await stack.wait()


def _show(state: StackState, data_dir: Path, console: Console) -> None:
    table = Table("", "address", "pid", title="usage-stack", title_justify="left")
    for name, address in _places(state).items():
        table.add_row(name, address, str(getattr(state.pids, name) or "elsewhere"))
    if state.emulator_urls is not None:
        table.add_row("emulators", state.emulator_urls["control"], str(state.emulator_pid))
    console.print(table)
    where = (
        f"Data in {data_dir}; a token for everything in its dev-token, passwords in its stack.json, logs in its logs/."
    )
    console.print(where, markup=False, highlight=False, soft_wrap=True)


def _places(state: StackState) -> dict[str, str]:
    """By server: its address, without the password."""
    addresses = {"image": state.image_url, "ledger": state.ledger_url, "nats": state.nats_url}
    addresses["postgres"] = state.database_url or ""
    return {name: address.rpartition("@")[2] for name, address in addresses.items()}


def _addresses(state: StackState, data: Path) -> dict[str, object]:
    """For a program. Passwords are in stack.json, whose readers are its owner's."""
    servers = {name: {"address": place, "pid": getattr(state.pids, name)} for name, place in _places(state).items()}
    return {"data": str(data), "servers": servers, "emulators": state.emulator_urls}


@app.command()
def status(data: Data, as_json: AsJson = False) -> None:
    """Whether a stack runs on the folder (exit code 0, else 1), and where it answers."""
    state, runs = read_state(data), running_pid(data) is not None
    if as_json:
        ready = runs and state is not None
        write_json({"ready": ready, **(_addresses(state, data) if ready and state else {"data": str(data)})})
    if not runs:
        _say(f"No stack runs on {data}.")
        raise typer.Exit(ExitCode.FAILED)
    if state is None:
        _say(f"The stack on {data} is starting or stopping.")
        raise typer.Exit(ExitCode.FAILED)
    if not as_json:
        _show(state, data, Console())


@app.command()
def doctor(
    data: Data,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not ok.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is wrong with the stack on the folder, and what to do about it: `ledger doctor` with its settings.

    That WAL is archived is not expected: a stack is copied as a folder. Exit 0 where all is well; 3 where there are
    warnings, or something cannot be looked at; 1 where something fails, or no stack ever ran there.
    """
    try:
        settings = read_environment(data / LEDGER_ENVIRONMENT_FILE)
    except OSError as error:
        _say(f"No stack of this version with a ledger of its own ever ran on {data}: {error.strerror or error}.")
        _say(f"Start one: usage-stack up --data {data}. A ledger elsewhere is looked at by `ledger doctor`.")
        raise typer.Exit(ExitCode.FAILED) from None
    state = read_state(data)
    if running_pid(data) is None:
        _say(f"No stack runs on {data}, so that no server answers. Start it: usage-stack up --data {data}")
    options = ["--disk", str(data), *(word for name in ACCEPTED for word in ("--accept", name))]
    options += ["--ledger-url", state.ledger_url] if state else []
    options += ["--quiet"] if quiet else []
    options += ["--json"] if as_json else []
    command = [sys.executable, "-m", "ledger_service.cli", "doctor", *options]
    ended = subprocess.run(command, env={**os.environ, **settings}, check=False)
    raise typer.Exit(ended.returncode)


@app.command()
def down(data: Data, as_json: AsJson = False) -> None:
    """Stop the stack that runs on the folder, and wait until it is gone."""
    pid = running_pid(data)
    if pid is None:
        _say(f"No stack runs on {data}.")
        if as_json:
            write_json({"stopped": None})
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if running_pid(data) is None:
            if as_json:
                write_json({"stopped": pid})
            return
        time.sleep(DOWN_POLL_SECONDS)
    _say(f"The stack on {data} (pid {pid}) did not stop within {DOWN_TIMEOUT_SECONDS:g} s.")
    raise typer.Exit(ExitCode.FAILED)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
