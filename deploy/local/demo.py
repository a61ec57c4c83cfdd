"""usage-ledger's main job, once, on this machine: real servers, a real photograph, 100 calls at once, and a verdict.

PostgreSQL, NATS and both services are started on a throw-away folder and stopped at the end; the pictures stay.
Exit code: 0 where every promise held, 1 where one broke, 2 where the demo could not run, 128 + n after signal n.
"""

import asyncio
import io
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer
from rich.console import Console

from deploy.local.demo_client import TIMEOUT_SECONDS, DemoClient, DemoError
from deploy.local.demo_screen import WIDTH_MAX, Screen
from deploy.local.demo_story import CALLS_AT_ONCE, IMAGES_A_MONTH, Story, new_account
from deploy.local.demo_verdict import judge
from deploy.local.errors import StackError
from deploy.local.stack import StackOptions, running_stack

EXIT_HELD: Final = 0
EXIT_BROKEN: Final = 1
EXIT_NOT_RUN: Final = 2
EXIT_SIGNAL: Final = 128
_OPENING: Final = (
    f"An account on a plan with {IMAGES_A_MONTH} images and $1.00 a month. It edits and upscales a photograph, "
    f"has an operation fail, and sends {CALLS_AT_ONCE} calls at once. Real PostgreSQL, NATS and services, here."
)

app = typer.Typer(add_completion=False, help=__doc__)


@app.command(help=__doc__)
def demo(
    out: Annotated[Path | None, typer.Option(help="Where the pictures go; by default a new temporary folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="A data folder to keep; by default a throw-away one.")] = None,
) -> None:
    console = _console()
    results = _results_folder(out)
    folder = data or Path(tempfile.mkdtemp(prefix="usage-ledger-data-"))
    code = EXIT_NOT_RUN
    try:
        code = asyncio.run(_until_signal(console, results, folder))
    finally:
        if data is None:
            with suppress(OSError):
                if code in (EXIT_BROKEN, EXIT_NOT_RUN):
                    _keep_logs(folder, results)
            shutil.rmtree(folder, ignore_errors=True)
        if out is None:
            with suppress(OSError):
                results.rmdir()  # only if nothing came of it
    raise typer.Exit(code)


async def _run(console: Console, results: Path, data: Path, stopping: asyncio.Event) -> int:
    """The exit code; whatever keeps the demo from running is said. ``stopping`` is set once nothing more is done."""
    started = time.monotonic()
    screen = Screen(console, CALLS_AT_ONCE)
    screen.opening(_OPENING)
    try:
        with screen.working():
            screen.step("Starting PostgreSQL, NATS, the ledger and the image service")
            options = StackOptions(data_dir=data)
            limits = httpx.Limits(max_connections=CALLS_AT_ONCE)
            async with (
                running_stack(options, lambda text: screen.say(text, "yellow")) as stack,
                httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as http,
            ):
                http.headers["Authorization"] = f"Bearer {stack.token}"
                try:
                    client = DemoClient(http, stack.state.ledger_url, stack.state.image_url)
                    story = Story(client, screen, results, await new_account(client))
                    log = data / "logs" / "image.log"
                    evidence = await story.tell(lambda: log.read_text(encoding="utf-8", errors="replace"))
                finally:
                    stopping.set()
                    screen.step("Stopping")
    except StackError as error:
        return _failed(str(error), error.exit_code)
    except (DemoError, OSError) as error:
        return _failed(str(error), EXIT_NOT_RUN)
    except httpx.HTTPError as error:
        return _failed(f"A service did not answer: {error!r}", EXIT_NOT_RUN)
    promises = judge(evidence)
    screen.verdict(promises, results, time.monotonic() - started)
    return EXIT_HELD if all(promise.holds for promise in promises) else EXIT_BROKEN


def _failed(text: str, code: int) -> int:
    with suppress(OSError):  # nobody may be there to read it: the terminal was closed
        typer.echo(f"demo: {text}", err=True)
    return code


async def _until_signal(console: Console, results: Path, data: Path) -> int:
    """The exit code of the demo, or of the first signal to stop: the work is cancelled, and cleans up first."""
    stopping = asyncio.Event()
    task = asyncio.create_task(_run(console, results, data, stopping))
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        # What stops already is not interrupted: it would leave the rest undone.
        if not received and not stopping.is_set():
            received.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        with suppress(OSError):
            console.print(f"Stopped by {received[0].name}; nothing runs on.", style="yellow")
        return EXIT_SIGNAL + received[0]


def _console() -> Console:
    """Off a terminal no colours, no bar and a width of our own: what a log of a build can show."""
    terminal = sys.stdout.isatty()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a box that the encoding does not have must not end the demo
    console = Console(force_terminal=terminal, no_color=None if terminal else True, highlight=False)
    console.width = min(console.width, WIDTH_MAX) if terminal else WIDTH_MAX
    return console


def _results_folder(out: Path | None) -> Path:
    """Made before anything is started, so that a folder that cannot be written is said at once."""
    try:
        if out is None:
            return Path(tempfile.mkdtemp(prefix="usage-ledger-demo-"))
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return out.resolve()
    except OSError as error:
        typer.echo(f"demo: the folder for the pictures cannot be used: {error}; choose another with --out.", err=True)
        raise typer.Exit(EXIT_NOT_RUN) from error


def _keep_logs(data: Path, results: Path) -> None:
    """The data folder goes; what its services said stays, for whoever looks into what went wrong."""
    if (data / "logs").is_dir():
        shutil.copytree(data / "logs", results / "logs", dirs_exist_ok=True)
        typer.echo(f"demo: the services' logs are in {results / 'logs'}", err=True)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
