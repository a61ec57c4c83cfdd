"""Which document stands where in the site. How-tos are in the order, and the groups, in which the README lists them."""

import re
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from deploy.docs.links import ROOT
from deploy.docs.markdown import links_of, title_of

GUIDES: Final = "deploy/guides"
DECISIONS: Final = "deploy/decisions"
TUTORIAL: Final = f"{GUIDES}/tutorial.md"
DESIGN: Final = f"{GUIDES}/design.md"
PROMISES: Final = f"{GUIDES}/promises.md"
OTHERS: Final = "Others"

_LISTED: Final = re.compile(r"^Guides:\n\n(.*?)\n\n(?!-)", re.MULTILINE | re.DOTALL)
_GROUP: Final = re.compile(r"^- ([a-z ]+): ", re.MULTILINE)


class Place(NamedTuple):
    """``path`` in the repository, ``page`` in the site; ``group`` within the section, or empty."""

    path: str
    page: str
    section: str
    group: str
    title: str


def places() -> list[Place]:
    """All written pages, in the order of the navigation."""
    return [
        _place("README.md", "index.md", "Start", title="Usage ledger"),
        _place(TUTORIAL, "tutorial.md", "Tutorial"),
        *how_tos(),
        _place(DESIGN, "explanation/design.md", "Explanation"),
        _place(PROMISES, "explanation/promises.md", "Explanation"),
        _place("SECURITY.md", "explanation/security.md", "Explanation"),
        *(
            _place(f"{DECISIONS}/{one.name}", f"explanation/decisions/{one.name}", "Explanation", "Decisions")
            for one in sorted((ROOT / DECISIONS).glob("*.md"))
        ),
        _place("CONTRIBUTING.md", "contributing.md", "Contributing"),
        _place("CHANGELOG.md", "changelog.md", "Contributing"),
    ]


def how_tos() -> list[Place]:
    """Those that the README does not list come last."""
    grouped = groups((ROOT / "README.md").read_text(encoding="utf-8"))
    listed = [path for paths in grouped.values() for path in paths]
    found = sorted(f"{GUIDES}/{one.name}" for one in (ROOT / GUIDES).glob("*.md"))
    grouped[OTHERS] = [path for path in found if path not in listed]
    return [
        _place(path, f"how-to/{PurePosixPath(path).name}", "How-to", group)
        for group, paths in grouped.items()
        for path in paths
        if path not in (TUTORIAL, DESIGN, PROMISES)
    ]


def groups(readme: str) -> dict[str, list[str]]:
    """The guides under ``Guides:``, by what stands before the colon of their line; each once."""
    listed = _LISTED.search(readme)
    if listed is None:
        raise ValueError("README.md lists no guides under 'Guides:'")
    _, *parts = _GROUP.split(listed[1])
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        paths = [link for link in links_of(text) if link.startswith(f"{GUIDES}/") and link not in seen]
        seen.update(paths)
        found.setdefault(name.capitalize(), []).extend(paths)
    return found


def _place(path: str, page: str, section: str, group: str = "", title: str = "") -> Place:
    return Place(path, page, section, group, title or title_of((ROOT / path).read_text(encoding="utf-8")))
