"""Every curl command of the README and its guides, run as it stands there."""

import asyncio
import re
from pathlib import Path

from deploy.local.stack import StackOptions, running_stack

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60


def commands() -> str:
    chosen: list[str] = []
    # The README last: its last command's answer is looked at.
    for page, blocks_expected in (
        ("README.md", 3),
        ("deploy/guides/limits.md", 4),
        ("deploy/guides/access.md", 2),
        ("deploy/guides/operations.md", 2),
    ):
        blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        with_curl = [block for block in blocks if "curl" in block]
        assert len(with_curl) == blocks_expected, page
        chosen = [*with_curl, *chosen]
    # What sets the token stands in the README, which people read first.
    chosen.sort(key=lambda block: "auth=" not in block)
    return "\n".join(chosen).replace("curl -sS", "curl -sS --fail-with-body -w '\\n'")


async def test_the_readmes_commands_do_what_it_says(tmp_path: Path) -> None:
    async with running_stack(StackOptions(tmp_path / "data")) as stack:
        script = commands()
        for written, real in (
            ("localhost:8001", stack.state.ledger_url),
            ("localhost:8000", stack.state.image_url),
            (".data/", f"{tmp_path}/data/"),
            (".venv/bin/python", str(ROOT / ".venv" / "bin" / "python")),
            ("fox", str(tmp_path / "fox")),
            ("hill.", f"{tmp_path}/hill."),
            ("hill-lit.", f"{tmp_path}/hill-lit."),
        ):
            script = script.replace(written, real)
        script = script.replace(f'"a red {tmp_path}/fox in snow"', '"a red fox in snow"')
        script = script.replace(f"Idempotency-Key: {tmp_path}/fox-1", "Idempotency-Key: fox-1")
        shell = await asyncio.create_subprocess_exec(
            "bash", "-e", "-c", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        printed, _ = await asyncio.wait_for(shell.communicate(), SECONDS_MAX)
    output = printed.decode()
    assert shell.returncode == 0, output
    decision = output.strip().splitlines()[-1]
    assert '"allowed":true' in decision
    assert '"state":"settled"' in decision
    for name, magic in (
        ("fox-large.png", b"\x89PNG"),
        ("hill-lit.png", b"\x89PNG"),
        ("hill.glb", b"glTF"),
        ("hill.webp", b"RIFF"),
    ):
        assert (tmp_path / name).read_bytes().startswith(magic), name
    assert "event: completed" in output
