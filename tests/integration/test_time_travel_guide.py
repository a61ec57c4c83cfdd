"""Every command of the guide to time travel, run as it stands there."""

import asyncio
import re
from pathlib import Path

from tests.builders import completed, limit
from tests.servers import Ledger
from tests.tokens import AUTHORIZED

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60


async def test_the_guides_commands_do_what_it_says(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(limit())
    await ledger.send(completed(time="2026-09-15T12:00:00Z", cost="0.04"), completed(cost="0.02"))
    token = tmp_path / "dev-token"
    token.write_text(AUTHORIZED["Authorization"].removeprefix("Bearer "))
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "deploy/guides/time-travel.md").read_text(), re.M | re.S)
    assert len(blocks) == 5
    script = "set -o pipefail\n" + "\n".join(blocks).replace("curl -sS", "curl -sS --fail-with-body")
    script = script.replace("localhost:8001", ledger.url).replace(".data/dev-token", str(token))
    shell = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", script, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await asyncio.wait_for(shell.communicate(), SECONDS_MAX)
    output = printed.decode()
    assert shell.returncode == 0, output[-1500:]
    assert '"late":true' in output
    assert '"late":{"calls":1,' in output
    assert '"plan_id":"basic"' in output
