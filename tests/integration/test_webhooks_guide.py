"""The guide to webhooks: its receiver takes what the ledger sends, with every command as it stands there."""

import asyncio
import os
import re
import sys
from pathlib import Path

from deploy.local.ports import free_port
from tests.conftest import StartLedger
from tests.receivers import QUICK_WEBHOOKS
from tests.servers import as_service
from tests.tokens import AUTHORIZED

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "deploy/guides/webhooks.md").read_text()
SECONDS_MAX = 150


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


async def test_the_guides_receiver_and_commands_do_what_it_says(
    start_ledger: StartLedger, database_url: str, tmp_path: Path
) -> None:
    ledger = await start_ledger(**QUICK_WEBHOOKS)
    [receiver] = blocks("python")
    (tmp_path / "receiver.py").write_text(receiver)
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data/dev-token").write_text(AUTHORIZED["Authorization"].removeprefix("Bearer "))
    port = str(free_port())
    is_up = f"until (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done\n"
    script = "set -o pipefail\ntrap 'kill $receiver 2>/dev/null || true' EXIT\n" + "\n".join(blocks("sh"))
    delivery = f"{ledger.url}/v1/webhooks/finance/deliveries/$id"
    script += f'\nuntil curl -sS -H "$auth" {delivery} | grep \'"attempts":2\'; do sleep 0.1; done'
    script = script.replace("curl -sS", "curl -sS --fail-with-body").replace("localhost:8001", ledger.url)
    script = script.replace("9000", port).replace("receiver=$!\n", f"receiver=$!\n{is_up}")
    shell = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", script, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "LEDGER_DATABASE_URL": as_service(database_url),
        },
    )  # fmt: skip
    printed, _ = await asyncio.wait_for(shell.communicate(), SECONDS_MAX)
    output = printed.decode()
    assert shell.returncode == 0, output[-1500:]
    # Sent twice, the second time signed with the second secret, and under an id that the receiver knew.
    assert [line.split(" ")[0] for line in (tmp_path / "received").read_text().splitlines()] == ["webhook.test"]
    assert "finance: answered 204" in output
    assert "1 are to be sent again" in output
    assert '"status":401' not in output
