"""requirements.lock, as `uv pip compile` writes it: what is locked, by which hashes, and who wanted it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).parents[2] / "requirements.lock"
#: How the lock file names the project, which wants what pyproject.toml lists; with a group of development: its tools.
PROJECT: Final = "usage-ledger (pyproject.toml)"
TOOLS: Final = "usage-ledger (pyproject.toml:dev)"

_PIN: Final = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+))?"
)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA: Final = re.compile(r"^    #   (?:via )?(?P<who>\S.*)$|^    # via (?P<only>\S.*)$")


class LockError(Exception):
    """The lock file is not what it should be."""


@dataclass(frozen=True)
class Pinned:
    """``wanted_by``: names of packages, PROJECT, or TOOLS."""

    name: str
    version: str
    #: For which machines (PEP 508); None = all.
    marker: str | None
    sha256: tuple[str, ...]
    wanted_by: tuple[str, ...]


def read_lock(text: str) -> list[Pinned]:
    """All that is locked. Raises LockError where something has no hash, or nobody wants it."""
    return [_pinned(block) for block in _blocks(text)]


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line and not line[0].isspace() and block:
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def _pinned(block: list[str]) -> Pinned:
    found = _PIN.match(block[0])
    if found is None:
        raise LockError(f"not a pinned version: {block[0]}")
    name = found["name"]
    hashes = tuple(_HASH.findall("\n".join(block)))
    wanted = tuple(via["only"] or via["who"] for line in block if (via := _VIA.match(line)))
    if not hashes or not wanted:
        raise LockError(f"{name} has no hash, or nobody wants it")
    return Pinned(name, found["version"], (found["marker"] or "").strip() or None, hashes, wanted)


def needed_at_run_time(pins: list[Pinned]) -> frozenset[str]:
    """Names of those that the product needs, the servers of the one-machine stack too: all but tools of development."""
    return needed_by(pins, frozenset(pin.name for pin in pins if PROJECT in pin.wanted_by))


def needed_by(pins: list[Pinned], roots: frozenset[str]) -> frozenset[str]:
    """Names of the roots, and of all that they need, directly or not. Raises LockError where a root is not locked."""
    if unknown := roots - {pin.name for pin in pins}:
        raise LockError(f"not locked: {', '.join(sorted(unknown))}")
    needed = set(roots)
    while more := {pin.name for pin in pins if pin.name not in needed and not needed.isdisjoint(pin.wanted_by)}:
        needed |= more
    return frozenset(needed)
