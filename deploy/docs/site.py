"""The site: written pages, with their links led to each other, and generated ones, as a folder that Zensical builds."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any, Final

import yaml

from deploy.docs import (
    command_reference,
    figures,
    http_reference,
    message_reference,
    metric_reference,
    problem_reference,
    settings_reference,
)
from deploy.docs.links import ROOT, Linked
from deploy.docs.markdown import title_of
from deploy.docs.places import Place, places

CONFIG: Final = Path(__file__).with_name("site.yml")
STYLE: Final = CONFIG.with_name("site.css")
REFERENCE: Final = "reference"
#: For the server that shows the site, once it is told to end.
END_SECONDS_MAX: Final = 5.0
#: The builder colours what it says, whoever reads it.
_STYLED: Final = re.compile(r"\x1b\[[0-9;]*m")


class SiteError(Exception):
    """The site cannot be built; the message says why."""


def reference_pages() -> dict[str, str]:
    """By their place in the site."""
    made = {
        "http-ledger": http_reference.ledger_page(http_reference.ledger_document()),
        "http-image": http_reference.image_page(http_reference.image_document()),
        "nats": message_reference.nats_page(message_reference.asyncapi()),
        "events": message_reference.events_page(),
        "configuration": settings_reference.page(),
        "commands": command_reference.page(),
        "problems": problem_reference.page(),
        "metrics": metric_reference.page(),
    }
    return {f"{REFERENCE}/{name}.md": text for name, text in made.items()}


def write_sources(folder: Path) -> Path:
    """Everything that Zensical reads, anew in ``folder``; answers its configuration. Raises BrokenLinkError."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = places()
    linked = Linked({place.path: place.page for place in listed})
    pages = {place.page: linked.page(place.path) for place in listed}
    references = reference_pages()
    pages |= references | {figures.PAGE: _figures(listed, linked)}
    for text in references.values():
        linked.want_sources_of(text)
    pages |= linked.source_pages()
    for name, text in pages.items():
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    shutil.copy(STYLE, folder / "pages" / STYLE.name)
    config = folder / "mkdocs.yml"
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings |= {"docs_dir": "pages", "site_dir": "site", "nav": navigation(listed, references)}
    config.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return config


def navigation(listed: list[Place], references: Mapping[str, str]) -> list[Any]:  # Any: YAML, as MkDocs nests it
    sections: dict[str, dict[str, list[Any]]] = {}  # Any: as above
    for place in listed:
        sections.setdefault(place.section, {}).setdefault(place.group, []).append({place.title: place.page})
    found: list[Any] = []  # Any: as above
    for section, groups in sections.items():
        entries: list[Any] = []  # Any: as above
        for group, pages in groups.items():
            entries += [{group: pages}] if group else pages
        if section == "Explanation":
            found.append({"Reference": [{title_of(text): name} for name, text in references.items()]})
            entries.insert(2, {"Measured figures": figures.PAGE})
        found += [{section: entries}] if len(entries) > 1 else [{section: next(iter(entries[0].values()))}]
    return found


def _figures(listed: list[Place], linked: Linked) -> str:
    here = PurePosixPath(figures.PAGE).parent
    told = [one for one in listed if one.section in ("Explanation", "How-to")]
    return figures.page((one.title, relpath(one.page, here), linked.page(one.path, figures.PAGE)) for one in told)


def build(work: Path, target: Path) -> int:
    """Builds the site into ``target``; answers how many pages it has. Raises SiteError where anything is wrong with
    it, and then leaves ``target`` as it was."""
    config = write_sources(work)
    run_builder(config)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work / "site", target)
    return sum(1 for _ in target.rglob("*.html"))


def run_builder(config: Path) -> None:
    """Builds what the configuration names into ``site`` beside it. Raises SiteError with all that is wrong."""
    ended = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(config)],
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise SiteError(
            _STYLED.sub("", ended.stdout).partition("Traceback")[0].strip() or "zensical failed, and said nothing"
        )


def serve(work: Path, address: str) -> int:
    """Shows the site until Ctrl-C or SIGTERM; the exit code."""
    return run_server(write_sources(work), address)


def run_server(config: Path, address: str) -> int:
    """Shows what the configuration names until Ctrl-C or SIGTERM. What served it has ended then, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = None
    try:
        command = [sys.executable, "-m", "zensical", "serve", "--config-file", str(config), "--dev-addr", address]
        server = subprocess.Popen(command, cwd=config.parent)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if server is not None:
            _end(server)
        signal.signal(signal.SIGTERM, before)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """However it takes the request to end: it has the port."""
    server.terminate()
    try:
        server.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def default_target() -> Path:
    return ROOT / "build" / "site"
