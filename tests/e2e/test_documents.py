"""Every command and program of the README, the guides and all other pages, run as it stands there on one stack.

A new page is run without further ado. What cannot be is listed, with its reason, in tests/documents.py; what a page
takes for granted (a file that a reader has, the number of a dead letter) is in PREPARED.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from contracts.limits import Plan
from deploy.local.postgres import postgres_programs
from image_service.routing import read_routes
from ledger_service.invoice_mappings import read_mapping
from tests.documents import COMMANDS, GUIDES, NOT_RUN, PAGES, READ, README, ROOT, RUN, RUN_ELSEWHERE, Block, blocks_of

START_SECONDS: Final = 90.0
PAGE_SECONDS: Final = 120
#: What curl ends with where the answer is an error.
HTTP_ERROR: Final = 22
TUTORIAL: Final = f"{GUIDES}/tutorial.md"
AUTH: Final = 'auth="Authorization: Bearer $(cat .data/dev-token)"\n'


@dataclass(frozen=True)
class Prepared:
    """``first`` runs before the page's blocks; ``instead`` puts what a reader knows in place of what stands there;
    ``codes`` are exit codes other than 0 that a block is to end with, by what it begins with."""

    first: str = ""
    instead: Mapping[str, str] | None = None
    codes: Mapping[str, int] | None = None
    expected: tuple[str, ...] = ()


#: Two outcomes on JetStream whose cost is a number: dead letters.
POISON: Final = """
python - "$NATS_URL" <<'END'
import asyncio, json, sys
import nats
from contracts.identifiers import uuid7
from contracts.subjects import MSG_ID_HEADER
from tests.builders import completed

async def main():
    connection = await nats.connect(sys.argv[1])
    for _ in range(2):
        event = completed()
        event["data"]["cost"] = 0.03
        await connection.publish(
            "usage.v1.operation.completed", json.dumps(event).encode(), headers={MSG_ID_HEADER: event["id"]})
    await connection.flush()
    await connection.close()

asyncio.run(main())
END
until set -- $(psql "$LEDGER_DATABASE_URL" -Atc 'select dead_letter_id from dead_letters order by 1'); [ $# -ge 2 ]; do
  sleep 0.1
done
"""
#: A picture by the emulated provider, so that there is something to bill; and the file of the guide's last block.
BILLED: Final = """
control=$EMULATORS
curl -sS -X POST $control/reset
curl -sS -H "$auth" localhost:8000/v1/images/generate -H 'X-Account-Id: acme' -H 'X-User-Id: ada' -o /dev/null \\
  -H 'Content-Type: application/json' -d '{"prompt": "a hill", "provider": "wavespeed", "width": 512, "height": 512}'
. "$LAST_BLOCK"
"""

PREPARED: Final[Mapping[str, Prepared]] = {
    README: Prepared(expected=('"allowed":true', '"state":"settled"')),
    f"{GUIDES}/operations.md": Prepared(expected=("event: completed",)),
    f"{GUIDES}/dead-letters.md": Prepared(
        POISON,
        {
            " 42 ": " $1 ",
            "# edit it": '; sed -i \'s/"cost": *0.03/"cost": "0.03"/\' event.json',
            "discard $1 ": "discard $2 ",
        },
        {"ledger dead-letters redrive 42 --author": 1},
        expected=("refused again", "recorded"),
    ),
    f"{GUIDES}/emulators.md": Prepared(instead={"localhost:8100/_emulator": "$EMULATORS"}),
    f"{GUIDES}/reconciliation.md": Prepared(BILLED, expected=("both agree, to the nano-dollar",)),
    TUTORIAL: Prepared(
        codes={"# the third of the day": HTTP_ERROR},
        expected=('"code":"limit_exceeded"', '"limit_id":"images"', '"is_lease":false'),
    ),
    "CONTRIBUTING.md": Prepared(codes={"# now every limit": 1}, expected=("1 failed", "Lay an image in tiles")),
    # Warnings are other pages' dead letters, and no archive of WAL.
    f"{GUIDES}/doctor.md": Prepared(
        "warned() { return $(($1 == 3 ? 0 : $1)); }\n",
        {
            "data .data     #": "data .data || warned $?  #",
            "\nledger doctor\n": "\nledger doctor || warned $?\n",
            "--quiet  ": "--quiet || warned $?  ",
            "--accept postgres.archiving": "--accept postgres.archiving || warned $?",
            "ledger doctor --json": "{ ledger doctor --json || warned $?; }",
            "/srv/postgres": ".data",
            "/srv/nats": ".data",
        },
        expected=("postgres.synchronous_commit", "no old transaction is open"),
    ),
    f"{GUIDES}/storage.md": Prepared("mkdir archive\n", {"/srv/ledger-archive": "archive"}),
    f"{GUIDES}/seals.md": Prepared(
        # The ledger may read the checkpoints in the stream; whose URL NATS_URL is may not.
        "set -a; . .data/ledger.env; set +a\noperation=$(cat ../operation)\nsleep 1.5\n",
        {
            "'usage-ledger+1a2b3c4d+AZ…'": '"$(ledger seals key)"',
            "/mnt/elsewhere/checkpoints": ".data/seals/checkpoints",
        },
        expected=("checkpoints in the stream are the database's", "What was sealed is there, unchanged."),
    ),
}


@dataclass(frozen=True)
class Stack:
    folder: Path
    data: Path
    state: dict[str, Any]
    readme: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """A reader's: PostgreSQL's programs and ours in the PATH, and which database the `ledger` command is for."""
        return {
            "PATH": f"{ROOT}/.venv/bin:{postgres_programs()}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "LEDGER_DATABASE_URL": self.state["database_url"],
            "LEDGER_NATS_URL": self.state["nats_url"],
            "LEDGER_SEALS_KEY_FILE": str(self.data / "seals" / "key.pem"),
            "NATS_URL": self.state["nats_url"],
            "EMULATORS": self.state["emulator_urls"]["control"],
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """As the guides have it started, on ports of its own; and the README's commands, which other pages build on."""
    folder = tmp_path_factory.mktemp("documents")
    data = folder / "data"
    command = [f"{ROOT}/.venv/bin/usage-stack", "up", "--data", str(data), "--emulate-providers"]
    environment = {**os.environ, "LEDGER_SEALS_INTERVAL_SECONDS": "0.5"}
    process = subprocess.Popen(
        [*command, "--ledger-port", "0", "--image-port", "0"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        ready_by = time.monotonic() + START_SECONDS
        while not (data / "stack.json").exists():
            assert process.poll() is None, "usage-stack ended"
            assert time.monotonic() < ready_by
            time.sleep(0.05)
        made = Stack(folder, data, json.loads((data / "stack.json").read_text()))
        printed = run(made, README)
        yield Stack(made.folder, made.data, made.state, printed)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def script_of(page: str, stack: Stack) -> str:
    """One shell for the whole page, so that what a block sets later ones have; says which block it is at."""
    prepared = PREPARED.get(page, Prepared())
    parts = ["set -e -o pipefail\ntrap '[ $? = 0 ] || echo \"stopped in the block of $block\" >&2' EXIT\n", AUTH]
    parts.append(f"block='what comes first'\n{prepared.first}")
    parts.extend(
        f"block='{page}, line {block.line}'\n{_runnable(block, prepared)}"
        for block in blocks_of(page)
        if block.language in RUN and block.why_not_run is None
    )
    script = "\n".join(parts)
    for written, real in (("localhost:8001", stack.state["ledger_url"]), ("localhost:8000", stack.state["image_url"])):
        script = script.replace(f"http://{written}", real).replace(written, real)
    newline = " -w '\\n'" if page in (README, TUTORIAL) else ""
    return re.sub(r"\bcurl -s\w*", rf"\g<0> --fail-with-body{newline}", script)


def _runnable(block: Block, prepared: Prepared) -> str:
    text = block.text
    code = next((code for start, code in (prepared.codes or {}).items() if text.startswith(start)), 0)
    for written, real in (prepared.instead or {}).items():
        text = text.replace(written, real)
    if block.language == "python":
        return f"python - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n"
    return f"set +e\n{text}ended=$?\nset -e\n[ $ended = {code} ]\n" if code else text


def run(stack: Stack, page: str) -> str:
    """What the page's commands print; the test fails, with that, where one of them does."""
    folder = stack.folder / Path(page).stem
    folder.mkdir()
    (folder / ".data").symlink_to(stack.data)
    for name in (".venv", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    if page == "CONTRIBUTING.md":
        copied(folder)
    blocks = blocks_of(page)
    (folder / "last-block").write_text(blocks[-1].text)
    script = script_of(page, stack)
    if page == README:
        script += '\necho "$operation" > ../operation\n'
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**stack.environment, "LAST_BLOCK": str(folder / "last-block")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PAGE_SECONDS,
        check=False,
    )
    printed = ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, f"{page}: exit code {ended.returncode}\n{printed[-3000:]}"
    for text in PREPARED.get(page, Prepared()).expected:
        assert text in printed, f"{page} does not print {text}:\n{printed[-3000:]}"
    return printed


def copied(folder: Path) -> None:
    """A clone to change something in, with what the first change touches."""
    (folder / "deploy").unlink()
    for name in ("contracts", "ledger_service", "image_service", "deploy", "tests"):
        shutil.copytree(ROOT / name, folder / name)  # what is compiled comes along: it is a second of each command
    for name in ("pyproject.toml", "README.md", "Makefile", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=you", "-c", "user.email=you@example.org"]
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "contracts", "ledger_service", "image_service"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-qm", "A clone"], cwd=folder, check=True)


RUN_HERE: Final = [
    page
    for page in PAGES
    if page != README and any(block.language in RUN and block.why_not_run is None for block in blocks_of(page))
]


@pytest.mark.parametrize("page", RUN_HERE)
def test_commands_and_programs_do_what_the_page_says(stack: Stack, page: str) -> None:
    run(stack, page)


def test_the_readmes_commands_make_pictures(stack: Stack) -> None:
    decision = stack.readme.strip().splitlines()[-1]
    assert '"allowed":true' in decision
    assert '"state":"settled"' in decision
    assert (stack.folder / "README" / "fox-large.png").read_bytes().startswith(b"\x89PNG")


#: What reads the blocks that are data, by page.
READERS: Final[Mapping[str, Callable[[str, Path], object]]] = {
    f"{GUIDES}/leases.md": lambda text, _: Plan.model_validate(
        {"name": "x", "limits": [], **json.loads(f"{{{text}}}")}
    ),
    f"{GUIDES}/operations.md": lambda text, folder: read_routes(_file(folder, text)),
    f"{GUIDES}/reconciliation.md": lambda text, folder: read_mapping(str(_file(folder, text))),
}


def _file(folder: Path, text: str) -> Path:
    path = folder / "block.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("block", [one for page in PAGES for one in blocks_of(page) if one.language in READ], ids=str)
def test_data_is_what_its_program_reads(block: Block, tmp_path: Path) -> None:
    reader = READERS.get(block.page)
    if reader is not None:
        assert reader(block.text, tmp_path)
    else:
        assert yaml.safe_load(block.text) is not None  # JSON is YAML


def test_every_block_is_run_or_read_or_listed() -> None:
    for block in (one for page in PAGES for one in blocks_of(page)):
        if not block.language:
            assert not COMMANDS.match(block.text), f"{block.page}:{block.line} is a command: say ```sh"
        elif block.why_not_run is None:
            assert block.language in RUN | READ, f"{block.page}:{block.line}: nothing runs {block.language}"


def test_what_is_listed_is_there() -> None:
    """A reason for a block that is gone, or a test that no longer reads the page, would hide a new one."""
    for page, beginning, _ in NOT_RUN:
        assert any(block.text.startswith(beginning) for block in blocks_of(page)), (page, beginning)
    for (page, language), test in RUN_ELSEWHERE.items():
        assert any(block.language == language for block in blocks_of(page)), (page, language)
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), (page, test)
