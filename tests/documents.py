"""Code blocks of the README, the guides and whatever else people read: which there are, and what runs each.

A block with a language is run as it stands there by tests/e2e/test_documents.py unless another test does so
(RUN_ELSEWHERE), or nobody can (NOT_RUN, with the reason). A block without a language is something to look at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from deploy.docs.markdown import lines_outside_code

ROOT: Final = Path(__file__).parents[1]
README: Final = "README.md"
GUIDES: Final = "deploy/guides"
PAGES: Final = tuple(
    str(path.relative_to(ROOT))
    for path in (
        *sorted((ROOT / GUIDES).glob("*.md")),
        *sorted((ROOT / "deploy/decisions").glob("*.md")),
        *sorted(ROOT.glob("*.md")),
    )
)

#: By page and language: the test that takes the blocks from there and runs them.
RUN_ELSEWHERE: Final[Mapping[tuple[str, str], str]] = {
    (f"{GUIDES}/backup.md", "sh"): "tests/faults/test_restore.py",
    (f"{GUIDES}/coming-from-alwrity.md", "sh"): "tests/integration/test_import_alwrity.py",
    (f"{GUIDES}/corrections.md", "sh"): "tests/integration/test_corrections_guide.py",
    (f"{GUIDES}/finance-sql.md", "sql"): "tests/integration/test_finance_sql.py",
    (f"{GUIDES}/operations.md", "python"): "tests/integration/test_new_operation.py",
    (f"{GUIDES}/providers.md", "python"): "tests/integration/test_providers_example.py",
    (f"{GUIDES}/time-travel.md", "sh"): "tests/integration/test_time_travel_guide.py",
    (f"{GUIDES}/webhooks.md", "python"): "tests/integration/test_webhooks_guide.py",
    (f"{GUIDES}/webhooks.md", "sh"): "tests/integration/test_webhooks_guide.py",
}


class NotRun(NamedTuple):
    """``beginning``: what the block begins with."""

    page: str
    beginning: str
    reason: str


NOT_RUN: Final = (
    NotRun(README, "make demo", "tests/e2e/test_demo.py runs the demo; what `make run` starts runs the other blocks"),
    NotRun("CONTRIBUTING.md", "git clone", "clones over the network, and installs for minutes"),
    NotRun("CONTRIBUTING.md", "make test", "the whole suite, which this is a part of"),
    NotRun(f"{GUIDES}/tutorial.md", "git clone", "clones over the network, installs, and runs until it is stopped"),
    NotRun(
        f"{GUIDES}/emulators.md",
        "usage-stack up",
        "both run until they are stopped; the fixture `stack` starts the first, deploy/local/emulated.py the second",
    ),
    NotRun(f"{GUIDES}/emulators.md", "openai.OpenAI", "needs the clients of two providers, no dependencies of ours"),
    NotRun(
        f"{GUIDES}/containers.md", "docker compose", "needs a container engine: `make containers-test` does the same"
    ),
    NotRun(f"{GUIDES}/containers.md", "compose=", "the same; make containers-test restarts all of it under load"),
    NotRun(f"{GUIDES}/containers.md", "overlay=", "needs a cluster; tests/unit/test_kubernetes.py reads the manifests"),
    NotRun(f"{GUIDES}/upgrades.md", "-- works with", "a migration, as an example; tests/upgrades applies one like it"),
    NotRun(f"{GUIDES}/exports.md", "import pandas", "needs pandas, DuckDB and Polars, no dependencies of ours"),
    NotRun(
        f"{GUIDES}/faults.md", "make faults", "takes minutes to hours; it is itself a run of tests, those marked so"
    ),
    NotRun(f"{GUIDES}/faults.md", "FAULTS_SEED", "the same, with a seed that a failed run prints"),
    NotRun(
        f"{GUIDES}/postgres.md",
        "createdb ledger",
        "a server of one's own, with passwords typed in; each stack makes the same roles by deploy/postgres/roles.py",
    ),
    NotRun(f"{GUIDES}/storage.md", "-- DuckDB", "needs DuckDB, no dependency of ours"),
)

#: Languages of what is run, and of what is read by the program that it is for.
RUN: Final = frozenset({"sh", "python"})
READ: Final = frozenset({"json", "yaml"})
#: What no block without a language may begin with: it would be a command that nobody runs.
COMMANDS: Final = re.compile(
    r"^(?:[A-Z_]+=\S+ )*"
    r"(?:make|curl|ledger|usage-stack|python|\.venv/bin/\S+|psql|pg_\w+|git|docker|kubectl|nats|cat|cp)\b"
)
_OPENING: Final = re.compile(r"^ *(?:`{3,}|~{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """``line`` is that of its first line of code."""

    page: str
    line: int
    language: str
    text: str

    @property
    def why_not_run(self) -> str | None:
        """None where it is run by test_documents.py."""
        elsewhere = RUN_ELSEWHERE.get((self.page, self.language))
        if elsewhere is not None:
            return f"run by {elsewhere}"
        reasons = (one.reason for one in NOT_RUN if one.page == self.page and self.text.startswith(one.beginning))
        return next(reasons, None)


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """Also those that are indented, within lists."""
    found: list[Block] = []
    language, start, kept = "", 0, list[str]()
    for number, line, prose in lines_outside_code((ROOT / page).read_text(encoding="utf-8") if text is None else text):
        if prose:
            if start:
                found.append(_block(page, start, language, kept))
            start = 0
        elif not start:
            opening = _OPENING.match(line)
            assert opening is not None, (page, number)
            language, start, kept = opening[1].strip(), number + 1, []
        else:
            kept.append(line)
    if start:
        found.append(_block(page, start, language, kept))
    return found


def _block(page: str, start: int, language: str, lines: list[str]) -> Block:
    body = lines[:-1]  # the last one closes it
    margin = min((len(line) - len(line.lstrip(" ")) for line in body if line.strip()), default=0)
    return Block(page, start, language, "".join(line[margin:] or "\n" for line in body))
