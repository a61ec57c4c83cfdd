"""The operation and the provider of deploy/guides/operations.md: taken from there, counted, added and run."""

import asyncio
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
from PIL import Image

from tests.integration.image_harness import (
    CALLER,
    ScriptedLedger,
    answers,
    eventually,
    free_port,
    picture,
    serving,
    upload,
)
from tests.tokens import TOKEN

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "deploy" / "guides" / "operations.md").read_text(encoding="utf-8")
OPERATION, PROVIDER = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def lines_of_code(text: str) -> int:
    """Lines that say something: no blank ones, no comments, no docstrings of one line."""
    lines = (line.strip() for line in text.splitlines())
    return len([line for line in lines if line and not line.startswith(("#", '"""'))])


def insert(path: Path, before: str, line: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, path
    path.write_text(text.replace(before, line + before), encoding="utf-8")


def test_the_guide_says_how_many_lines_they_take() -> None:
    said = re.search(r"`mosaic` takes (\d+) lines of\ncode and one more .* its provider (\d+) and one", GUIDE)
    assert said is not None
    assert [int(number) for number in said.groups()] == [lines_of_code(OPERATION), lines_of_code(PROVIDER)]


def test_whoever_follows_the_guide_passes_the_lint(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache", "--quiet"]
    ended = subprocess.run([*ruff, "contracts", "image_service"], cwd=copy, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


async def test_they_run_and_are_metered(tmp_path: Path) -> None:
    ledger, port = ScriptedLedger(), free_port()
    copy = copied(tmp_path)
    async with serving(ledger.app()) as url:
        environment = {
            "PATH": os.environ["PATH"], "IMAGE_PORT": str(port), "IMAGE_NATS_URL": "nats://127.0.0.1:1",
            "IMAGE_LEDGER_URL": url, "IMAGE_LEDGER_TOKEN": TOKEN, "IMAGE_DATA_DIR": str(tmp_path / "data"),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "image_service"], cwd=copy, env=environment, stderr=subprocess.PIPE
        )
        try:
            await eventually(lambda: answers(port) or process.poll() is not None, 30)
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=CALLER, trust_env=False
            ) as client:
                answer = await client.post("/v1/images/mosaic", **upload(picture((40, 30)), tiles="4"))
                alone = await client.post(
                    "/v1/images/mosaic", **upload(picture((40, 30)), tiles="4"), headers={"Accept": "image/*"}
                )
                wrong = await client.post("/v1/images/mosaic", **upload(picture(), tiles="1"))
                paths = (await client.get("/openapi.json")).json()["paths"]
        finally:
            process.terminate()
            _, err = await asyncio.to_thread(process.communicate)
    assert (answer.status_code, answer.json()["cost"]) == (200, "0.003000000"), (answer.text, err)
    colours = Image.open(io.BytesIO(alone.content)).getcolors()
    assert colours is not None
    assert len(colours) <= 12
    assert wrong.json()["errors"][0]["field"] == "tiles"
    assert "tiles" in str(paths["/v1/images/mosaic"]["post"]["requestBody"])
    assert (ledger.checks[0]["operation"], ledger.checks[0]["estimated_cost"]) == ("mosaic", "0.003000000")


def copied(folder: Path) -> Path:
    """The service with what the guide adds."""
    copy = folder / "copy"
    for package in ("contracts", "image_service"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "image_service" / "operations" / "mosaic.py").write_text(OPERATION, encoding="utf-8")
    (copy / "image_service" / "providers" / "tiler.py").write_text(PROVIDER, encoding="utf-8")
    insert(copy / "contracts" / "operations.py", ")\n", '    "mosaic",\n')
    registry = copy / "image_service" / "providers" / "registry.py"
    insert(registry, "LocalProvider(threads=", "TilerProvider(), ")
    insert(registry, "from image_service.routing import", "from image_service.providers.tiler import TilerProvider\n")
    return copy
