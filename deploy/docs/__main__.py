"""``python -m deploy.docs build|serve``: the documentation site."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from deploy.docs.links import BrokenLinkError
from deploy.docs.site import SiteError, build, default_target, serve

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command("build")
def build_site(
    to: Annotated[Path | None, typer.Option(help="The folder; what is there is replaced. Default: build/site.")] = None,
) -> None:
    """Build the site, strictly: a link or anchor that leads nowhere fails it. Exit codes: 0 built, 1 not."""
    target = (to or default_target()).resolve()
    with tempfile.TemporaryDirectory(prefix="usage-ledger-docs-") as work:
        try:
            pages = build(Path(work) / "docs", target)
        except (BrokenLinkError, SiteError) as error:
            typer.echo(f"docs: {error}", err=True)
            raise typer.Exit(1) from None
    typer.echo(f"{pages} pages in {target}: open {target / 'index.html'}, or `make docs-serve`.")


@app.command("serve")
def serve_site(
    address: Annotated[str, typer.Option(help="Where it listens.")] = "localhost:8008",
) -> None:
    """Show the site on this machine until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="usage-ledger-docs-") as work:
        try:
            sys.exit(serve(Path(work) / "docs", address))
        except BrokenLinkError as error:
            typer.echo(f"docs: {error}", err=True)
            raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
