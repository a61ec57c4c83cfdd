"""The documentation site: whole, strictly built, asking nobody else for anything, with everything that the code has."""

import asyncio
import re
import sys
from collections.abc import Mapping
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from contracts import subjects
from contracts.problem_advice import ADVICE
from contracts.problems import PROBLEM_TYPES
from deploy.docs import command_reference, message_reference, metric_reference, settings_reference
from deploy.docs.figures import paragraphs
from deploy.docs.links import BrokenLinkError, Linked
from deploy.docs.markdown import cell, fenced, relinked
from deploy.docs.places import groups, places
from deploy.docs.site import CONFIG, SiteError, build, reference_pages, run_builder
from deploy.local.ports import free_port
from image_service.access import RULES as IMAGE_RULES
from ledger_service.api.access import RULES as LEDGER_RULES
from tests.documents import GUIDES, PAGES, ROOT
from tests.servers import eventually

METRIC_NAMES = [ROOT / service / "metric_names.py" for service in ("ledger_service", "image_service")]
#: What a page has loaded when it is opened; links that people follow are no such thing.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|preload|icon|modulepreload))[^>]*href=[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//"
)


@pytest.fixture(scope="module")
def reference() -> Mapping[str, str]:
    return reference_pages()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert build(folder / "work", folder / "site") >= len(places())
    return folder / "site"


# --- the reference has what the code has


def test_every_setting_is_there_with_its_default_and_meaning(reference: Mapping[str, str]) -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", reference["reference/configuration.md"], re.MULTILINE))
    assert set(rows) == set(settings_reference.variables())
    for name, row in rows.items():
        default, _, bounds, meaning = (column.strip() for column in re.split(r"(?<!\\)\|", row))
        assert default, name
        assert bounds, name
        assert meaning, f"{name} has no `#:` comment above it in config.py"
    assert rows["LEDGER_TOKEN_SECONDS"].split("|")[:3] == [" `5.0` ", " s ", " > 0; ≤ 300 "]


def test_a_number_with_a_unit_in_its_name_has_it_in_the_table() -> None:
    for kind in settings_reference.SERVICES.values():
        for name, field in kind.model_fields.items():
            if field.annotation is float or (field.annotation is int and name not in ("port",)):
                assert settings_reference.unit_of(name), f"{name}: no unit is known for such a name"


def test_every_problem_is_there_with_what_to_do(reference: Mapping[str, str]) -> None:
    assert set(ADVICE) == {kind.code for kind in PROBLEM_TYPES}, "contracts/problem_advice.py has not all, or too many"
    for kind in PROBLEM_TYPES:
        row = f"| `{kind.code}` | {kind.status} | {cell(kind.title)} |"
        assert row in reference["reference/problems.md"]
        assert cell(ADVICE[kind.code]) in reference["reference/problems.md"]


def test_every_route_of_both_services_is_there(reference: Mapping[str, str]) -> None:
    for page, rules in (("http-ledger", LEDGER_RULES), ("http-image", IMAGE_RULES)):
        text = reference[f"reference/{page}.md"]
        for (method, path), rule in rules.items():
            assert f"### `{method} {path}` " in text, (method, path)
            for scope in rule.scopes or ():
                assert f"`{scope.value}`" in text


def test_every_subject_stream_and_message_is_there(reference: Mapping[str, str]) -> None:
    text = reference["reference/nats.md"]
    names = [value for name, value in vars(subjects).items() if name.isupper() and isinstance(value, str)]
    for name in (*names, *subjects.STREAM_SUBJECTS):
        if name != "usage.operation.":
            assert f"`{name}`" in text or f"stream {name}" in text, name
    for message in message_reference.asyncapi()["components"]["messages"]:
        assert f"### `{message}` " in text


def test_every_event_is_there_with_its_golden_example(reference: Mapping[str, str]) -> None:
    text = reference["reference/events.md"]
    types = message_reference.event_types()
    assert len(types) >= 3
    for event in types:
        assert f"## `{event}`" in text
        assert (message_reference.GOLDEN / f"{event}.json").read_text().strip() in text


def test_every_command_is_there_with_its_options(reference: Mapping[str, str]) -> None:
    text = reference["reference/commands.md"]
    names = [name for name, _ in command_reference.walk()]
    assert {"ledger verify", "ledger dead-letters redrive", "usage-stack up"} <= set(names)
    for name, command in command_reference.walk():
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert section.strip(), f"{name} has no docstring"
        for option in command.params:
            shown = (option.metavar or option.opts[0]).upper() if option.opts[0].isidentifier() else option.opts[0]
            if option.name != "help":
                assert f"`{shown}`".replace("|", "\\|") in section, (name, option.name)


def test_every_metric_is_there(reference: Mapping[str, str]) -> None:
    for metric in metric_reference.metrics():
        assert f"| `{metric.name}` | {metric.kind} |" in reference["reference/metrics.md"]
    declared = {name for path in METRIC_NAMES for name in re.findall(r'"((?:ledger|image)_[a-z_]+)"', path.read_text())}
    assert declared == {metric.name for metric in metric_reference.metrics()}


# --- the site is whole


def test_every_document_is_a_page(site: Path) -> None:
    shown = {place.path for place in places()}
    assert shown == set(PAGES)
    for place in places():
        assert (site / place.page).with_suffix(".html").exists(), place
    search = (site / "search.json").read_text()
    assert "From a clone to the first statement" in search
    assert "LEDGER_DATABASE_URL" in search


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    files = [path for ending in ("html", "css") for path in site.rglob(f"*.{ending}")]
    assert len(files) > len(PAGES)
    for path in files:
        found = LOADED.search(path.read_text())
        assert found is None, (path, found)


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    """Of what was built, not of what was written: the builder checks the latter."""
    texts = {path.resolve(): path.read_text() for path in site.rglob("*.html")}
    ids = {path: set(re.findall(r"\bid=[\"']?([^\"'\s>]+)", text)) for path, text in texts.items()}
    broken, followed = [], 0
    for path, text in texts.items():
        for address in re.findall(r"\b(?:href|src)=[\"']?([^\"'\s>]+)", text):
            place, _, anchor = unescape(address).partition("#")
            if re.match(r"[a-z]+:", place) or path.name == "404.html":
                continue
            target = _target(path.parent, place) if place else path
            followed += 1
            if target is None or (anchor and target in ids and unquote(anchor) not in ids[target]):
                broken.append(f"{path.relative_to(site.resolve())}: {address}")
    assert not broken, sorted(set(broken))[:20]
    assert followed > 1_000


@cache
def _target(folder: Path, place: str) -> Path | None:
    """The file that a link leads to; None: there is none. Each page has the same hundred in its navigation."""
    target = (folder / place).resolve()
    target = target / "index.html" if target.is_dir() else target
    return target if target.exists() else None


def test_what_would_be_loaded_from_elsewhere_is_seen() -> None:
    for text in (
        '<script src="https://cdn.example/a.js">',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        "@font-face { src: url(https://fonts.example/a.woff2) }",
    ):
        assert LOADED.search(text)
    assert LOADED.search('<a href="https://example.org">') is None


@pytest.mark.parametrize("address", ["no-such-page.md", "access.md#no-such-heading"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, address: str) -> None:
    config = _small_site(tmp_path, address)
    with pytest.raises(SiteError, match=r"does not exist|no-such"):
        run_builder(config)


def test_a_link_to_a_file_that_is_gone_names_page_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.docs.links.ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# Here\n\n[gone](gone.py)\n")
    with pytest.raises(BrokenLinkError, match=r"README.md:3: there is no gone.py"):
        Linked({"README.md": "index.md"}).page("README.md")


async def test_who_is_told_to_end_leaves_no_server_behind(tmp_path: Path) -> None:
    config, port = _small_site(tmp_path), free_port()
    run = f"from pathlib import Path; from deploy.docs.site import run_server; run_server(Path({str(config)!r}), "
    shown = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"{run}'127.0.0.1:{port}')", cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: _listens(port), "the site is shown", within_seconds=60)
        shown.terminate()
        assert await asyncio.wait_for(shown.wait(), 20) == 0
        assert not await _listens(port)
    finally:
        if shown.returncode is None:
            shown.kill()


def _small_site(folder: Path, address: str = "access.md") -> Path:
    """Two pages, with a link to this address."""
    (folder / "pages").mkdir()
    (folder / "pages" / "index.md").write_text(f"# Here\n\n[there]({address})\n")
    (folder / "pages" / "access.md").write_text("# Access\n\n## Scopes\n")
    settings = yaml.safe_load(CONFIG.read_text()) | {"docs_dir": "pages", "site_dir": "site", "extra_css": []}
    config = folder / "mkdocs.yml"
    config.write_text(yaml.safe_dump(settings))
    return config


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


# --- its pieces


def test_links_in_code_stay_as_they_are() -> None:
    text = "[a](x.md)\n```\n[a](x.md)\n```\n~~~~\n```\n[a](x.md)\n~~~~\n[a](x.md)\n"
    assert (
        relinked(text, lambda address, line: f"{line}")
        == text.replace("x.md", "1", 1)[::-1].replace("dm.x", "9", 1)[::-1]
    )


def test_cells_end_no_table_and_fences_end_where_they_should() -> None:
    assert cell("a | b\n<c> `d<e>`") == r"a \| b &lt;c> `d<e>`"
    assert fenced("```sh\nls\n```", "text").startswith("````text\n")


def test_guides_are_grouped_as_the_readme_lists_them() -> None:
    found = groups((ROOT / "README.md").read_text())
    assert list(found)[:2] == ["Calling", "Limits"]
    assert f"{GUIDES}/operations.md" in found["Calling"]
    listed = [path for paths in found.values() for path in paths]
    assert len(listed) == len(set(listed))


def test_paragraphs_with_figures_are_told_from_others() -> None:
    text = "# T\n\nNothing.\n\n- It was measured: 5 ms.\n- Another.\n\n| measured | 5 |\n\n```\nmeasured 5\n```\n"
    assert paragraphs(text) == ["- It was measured: 5 ms.\n"]
