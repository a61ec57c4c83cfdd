"""Pieces of Markdown: cells that break no table, fences that nothing in them ends, links that lead to pages."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

_FENCE: Final = re.compile(r"^ *(`{3,}|~{3,})")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"(`+[^`]*`+)")
_FENCE_MIN: Final = 3


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def cell(text: object) -> str:
    """One line that ends no cell, and whose angle brackets are text."""
    flat = " ".join(str(text).split())
    outside = [part if part.startswith("`") else part.replace("<", "&lt;") for part in _CODE.split(flat)]
    return "".join(outside).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Empty where there are no rows."""
    lines = ["| " + " | ".join(cell(one) for one in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |", *lines]) + "\n"


def fenced(text: str, language: str = "") -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(_FENCE_MIN, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def lines_outside_code(text: str) -> Iterator[tuple[int, str, bool]]:
    """Each line with its number from 1, and whether it is prose."""
    fence = ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        found = _FENCE.match(line)
        prose = not fence and found is None
        if found is not None and not fence:
            fence = found[1]
        elif found is not None and found[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        yield number, line, prose


def relinked(text: str, target: Callable[[str, int], str]) -> str:
    """With each link's address replaced by what ``target`` says of it and of the number of its line."""
    written = []
    for number, line, prose in lines_outside_code(text):
        written.append(_led(line, number, target) if prose else line)
    return "".join(written)


def _led(line: str, number: int, target: Callable[[str, int], str]) -> str:
    return _LINK.sub(lambda found: f"]({target(found[1], number)})", line)


def title_of(text: str) -> str:
    """The first heading. Raises ValueError where there is none."""
    for _, line, prose in lines_outside_code(text):
        if prose and line.startswith("# "):
            return line.removeprefix("# ").strip()
    raise ValueError("no first heading")


def links_of(text: str) -> list[str]:
    found: list[str] = []

    def keep(address: str, _: int) -> str:
        found.append(address)
        return address

    relinked(text, keep)
    return found
