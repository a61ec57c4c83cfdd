"""``python -m deploy.emulators``: the emulators on their own."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.emulators.emulation import Emulation
from deploy.emulators.jobs import Pace
from deploy.emulators.server import EmulatorServer

Seconds = Annotated[float, typer.Option(min=0, max=3600, help="Seconds.")]


def main(
    port: Annotated[int, typer.Option(help="Of the providers; 0 = a free one.")] = 8100,
    cdn_port: Annotated[int, typer.Option(help="Of the files they make; 0 = a free one.")] = 8101,
    seed: Annotated[str | None, typer.Option(help="Makes ids repeat from one run to the next.")] = None,
    answer: Seconds = 0.0,
    queue: Seconds = 0.3,
    run: Seconds = 1.0,
) -> None:
    """Serve every provider emulator on this machine until Ctrl-C. Nothing leaves it, and nothing costs anything.

    An answer takes --answer seconds; a job that is asked for again waits --queue and runs --run seconds.
    """
    emulation = Emulation(pace=Pace(answer=answer, queue=queue, run=run))
    if seed is not None:
        emulation.seed = seed
    try:
        server = EmulatorServer(emulation, port=port, cdn_port=cdn_port)
    except OSError as error:
        typer.echo(f"emulators: a port cannot be used: {error}. Choose others with --port and --cdn-port.", err=True)
        raise typer.Exit(2) from error
    table = Table("provider", "base URL", "key")
    for name, provider in server.app.providers.items():
        table.add_row(name, provider.url, provider.keys[0])
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"Files: {emulation.cdn_origin}   Control: {server.control_url}/billed, /faults, /chaos, /pace, /prices"
    )
    server.run()


if __name__ == "__main__":
    typer.run(main)
