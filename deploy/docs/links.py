"""Links among files of the repository, led to the pages of the site; sources that pages link to become pages too."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Final

from deploy.docs.markdown import code, fenced, links_of, relinked

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = "source"
#: Files as people read them; others are named only.
_LANGUAGES: Final = {
    ".c": "c", ".conf": "text", ".json": "json", ".md": "markdown", ".py": "python", ".sh": "sh", ".sql": "sql",
    ".toml": "toml", ".txt": "text", ".yaml": "yaml", ".yml": "yaml",
}  # fmt: skip
_SHOWN_BYTES_MAX: Final = 200_000
_HIDDEN: Final = frozenset({"__pycache__"})
_UNSEARCHED: Final = "---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n"


class BrokenLinkError(Exception):
    """A page links to what is not there."""


class Linked:
    """``pages``: of each document of the repository, its page."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages
        self._wanted: set[str] = set()

    def page(self, path: str, seen_from: str = "") -> str:
        """The document as the page that it becomes, or as a part of another page. Raises BrokenLinkError, naming file
        and line."""
        text = (ROOT / path).read_text(encoding="utf-8")
        here = PurePosixPath(seen_from or self._pages[path]).parent
        return relinked(text, lambda address, line: self._led(path, line, address, here))

    def want_sources_of(self, text: str) -> None:
        """Also what a generated page links to under source/."""
        for address in links_of(text):
            if address.startswith(f"../{SOURCE}/"):
                self._wanted.add(address.removeprefix(f"../{SOURCE}/").removesuffix("/index.md").removesuffix(".md"))

    def source_pages(self) -> dict[str, str]:
        """A page for each file and folder that was linked to, by its place in the site."""
        return {_source_page(path): _shown(path) for path in sorted(self._wanted)}

    def _led(self, path: str, line: int, address: str, here: PurePosixPath) -> str:
        if "://" in address or address.startswith(("#", "mailto:")):
            return address
        place, _, anchor = address.partition("#")
        target = normpath((PurePosixPath(path).parent / place).as_posix())
        if target in self._pages:
            return relpath(self._pages[target], here) + (f"#{anchor}" if anchor else "")
        if target.startswith("..") or not (ROOT / target).exists():
            raise BrokenLinkError(f"{path}:{line}: there is no {address}")
        self._wanted.add(target)
        return relpath(_source_page(target), here)


def _source_page(path: str) -> str:
    return f"{SOURCE}/{path}/index.md" if (ROOT / path).is_dir() else f"{SOURCE}/{path}.md"


def _shown(path: str) -> str:
    target = ROOT / path
    heading = f"{_UNSEARCHED}# {code(path)}\n\n"
    if target.is_dir():
        names = sorted(one.name + "/" * one.is_dir() for one in target.iterdir() if one.name not in _HIDDEN)
        return heading + "In this folder of the repository:\n\n" + "\n".join(f"- {code(name)}" for name in names) + "\n"
    language = _LANGUAGES.get(target.suffix)
    if language is None or target.stat().st_size > _SHOWN_BYTES_MAX:
        return heading + f"A file of the repository, of {target.stat().st_size:,} bytes.\n"
    return heading + fenced(target.read_text(encoding="utf-8"), language)
