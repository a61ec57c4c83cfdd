"""Every command of the guide to corrections, run as it stands there."""

import asyncio
import json
import os
import re
from pathlib import Path

import asyncpg

from tests.builders import completed, limit
from tests.rebuilds import differences
from tests.servers import Ledger
from tests.tokens import AUTHORIZED

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 120


async def test_the_guides_commands_do_what_it_says(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    await ledger.set_up(limit("spend", meter="cost", window="lifetime", maximum="100"))
    price = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"price": "0.02"}]}
    assert (await ledger.http.put("/v1/prices/local/generate/render-1", json=price)).status_code == 200
    await ledger.send(*(completed(time=f"2026-0{month}-15T12:00:00Z", cost="0.04") for month in (7, 8, 9)))
    token = tmp_path / "dev-token"
    token.write_text(AUTHORIZED["Authorization"].removeprefix("Bearer "))
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "deploy/guides/corrections.md").read_text(), re.M | re.S)
    assert len(blocks) == 9
    script = "\n".join(blocks).replace("curl -sS", "curl -sS --fail-with-body -w '\\n'")
    for written, real in (
        (
            ' -w \'\\n\' -H "$auth" "localhost:8001/v1/accounts/acme/usage-log',
            ' -H "$auth" "localhost:8001/v1/accounts/acme/usage-log',
        ),
        ("localhost:8001", ledger.url),
        (".data/dev-token", str(token)),
        (".venv/bin/python", str(ROOT / ".venv" / "bin" / "python")),
    ):
        script = script.replace(written, real)
    environment = {
        **os.environ, "LEDGER_DATABASE_URL": database_url, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    shell = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", script, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await asyncio.wait_for(shell.communicate(), SECONDS_MAX)
    output = printed.decode()
    assert shell.returncode == 0, output
    assert "of 3 operations 2 would change" in output
    assert '"operations":2' in output
    listed = next(line for line in output.splitlines() if line.startswith('{"items":') and '"kind":"void"' in line)
    assert [one["adjustment"]["kind"] for one in json.loads(listed)["items"]] == ["adjustment", "void"]
    kinds = await database.fetch("select adjustment ->> 'kind', count(*) from usage_log group by 1 order by 1")
    assert [tuple(row) for row in kinds] == [("adjustment", 2), ("rerate", 3), ("void", 1), (None, 3)]
    assert [row[0] for row in await database.fetch("select account_id from period_closings order by 1")] == ["", "acme"]
    assert (tmp_path / "statement.csv").read_text().startswith("section,operation")
    assert (tmp_path / "acme-2026-09.pdf").read_bytes() == (tmp_path / "statement.pdf").read_bytes()
    assert (tmp_path / "statement.html").read_text().startswith("<!doctype html>")
    assert await differences(database_url) == []
