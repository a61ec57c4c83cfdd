"""What an image installs: ``python -m deploy.docker.dependencies ledger`` prints it as pip reads it, with all hashes.

That is what requirements.lock has of pyproject.toml's dependencies, those of EXTRAS, and what all of them need, without
the servers of the one-machine stack, tools, and libraries of the other service. Runs in the first stage of a build, on
Python alone.
"""

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Final

from deploy.supply.lock import LOCK, Pinned, needed_by, read_lock

#: By image: what only the other service imports. A test looks whether that is so.
LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "ledger": frozenset({"aiolimiter", "numpy", "tenacity", "trimesh"}),
    "image": frozenset({"asyncpg", "fpdf2", "pyarrow", "rich", "typer"}),
}
#: Optional dependencies that an image has.
EXTRAS: Final = ("traces",)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def installed(image: str, lock: str, pyproject: str) -> list[Pinned]:
    """What the image has, of the texts of both files. Raises LockError where something is not locked."""
    pins = read_lock(lock)
    needed = needed_by(pins, direct_dependencies(pyproject) - LEFT_OUT[image])
    return [pin for pin in pins if pin.name in needed]


def direct_dependencies(pyproject: str) -> frozenset[str]:
    """Names of what an image asks for, as the lock file writes them."""
    project = tomllib.loads(pyproject)["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(requirement for extra in EXTRAS for requirement in optional[extra])]
    found = (_NAME.match(requirement) for requirement in wanted)
    return frozenset(re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name)


def _as_requirement(pin: Pinned) -> str:
    marker = f" ; {pin.marker}" if pin.marker else ""
    return " \\\n    ".join(
        [f"{pin.name}=={pin.version}{marker}", *(f"--hash=sha256:{digest}" for digest in pin.sha256)]
    )


def main(arguments: Sequence[str]) -> int:
    """The exit code: 2 where the image is none of ours."""
    if len(arguments) != 1 or arguments[0] not in LEFT_OUT:
        sys.stderr.write(f"usage: python -m deploy.docker.dependencies {'|'.join(LEFT_OUT)}\n")
        return 2
    pins = installed(arguments[0], LOCK.read_text(), LOCK.with_name("pyproject.toml").read_text())
    sys.stdout.write("".join(f"{_as_requirement(pin)}\n" for pin in pins))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
