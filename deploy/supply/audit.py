"""`make audit`: whether a version in requirements.lock is known to be vulnerable.

Exit 0: each was looked up, and none is. 1: some are. 2: not audited, or not all of it, which says nothing of the rest.
pip-audit by itself ends with 0 where a package index knows no vulnerabilities, as mirrors do; here that is 2.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from packaging.markers import Marker
from rich.console import Console
from rich.table import Table

from deploy.supply.lock import LOCK, read_lock

#: osv.dev has all that PyPI's own has, and says so where it cannot be reached.
COMMAND: Final = (
    sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--require-hashes", "--disable-pip", "--strict",
    "--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off",
)  # fmt: skip
SECONDS_MAX: Final = 600
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 2


@dataclass
class Verdict:
    """``found``: package, version, id, what mends it. ``unknown``: names that were not looked up."""

    found: list[tuple[str, str, str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return VULNERABLE if self.found else NOT_AUDITED if self.unknown else CLEAN


def judge(report: str, names: Sequence[str]) -> Verdict:
    """What pip-audit's JSON says of these packages; what it does not name was not audited. Raises ValueError."""
    verdict, audited = Verdict(), set()
    for one in json.loads(report)["dependencies"]:
        if "vulns" not in one:
            continue
        audited.add(one["name"])
        for vulnerability in one["vulns"]:
            mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            verdict.found.append((one["name"], one["version"], vulnerability["id"], mended))
    verdict.unknown = [name for name in names if name not in audited]
    return verdict


def main() -> int:
    console = Console(stderr=True, highlight=False)
    pins = read_lock(LOCK.read_text())
    # What is for other machines alone is audited there, or not at all: pip-audit leaves it out.
    names = [pin.name for pin in pins if pin.marker is None or Marker(pin.marker).evaluate()]
    with console.status(f"Looking up {len(names)} packages at osv.dev"):
        try:
            done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        except subprocess.TimeoutExpired:
            console.print(f"NOT AUDITED: no answer within {SECONDS_MAX} s.", style="bold red")
            return NOT_AUDITED
    try:
        verdict = judge(done.stdout, names)
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        console.print("NOT AUDITED: nothing is known about any version in requirements.lock.", style="bold red")
        console.print(reason, markup=False, soft_wrap=True)
        console.print("It asks https://api.osv.dev: run it where that can be reached. CI does so each day.")
        return NOT_AUDITED
    if verdict.found:
        table = Table("package", "version", "known as", "mended in")
        for row in verdict.found:
            table.add_row(*row)
        console.print(table)
        console.print(f"{len(verdict.found)} known vulnerabilities. `make lock UPGRADE=1` takes newer versions.")
    if verdict.unknown:
        some = ", ".join(verdict.unknown[:10])
        console.print(f"NOT AUDITED: {len(verdict.unknown)} of {len(names)} packages: {some}", style="bold red")
    if verdict.exit_code == CLEAN:
        console.print(f"{len(names)} packages audited, no known vulnerabilities", style="green")
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
