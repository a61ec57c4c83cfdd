"""The whole way: operations through the image service, an invoice out of the emulators' book, and both agree; then one
line is changed, dropped and doubled."""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ledger_command
from tests.emulators import Emulators
from tests.integration.image_harness import eventually, image_service
from tests.integration.provider_harness import settings_for
from tests.servers import Ledger

SQUARE = {"width": 512, "height": 512, "provider": "wavespeed"}
FAL = """
provider: fal
source: https://example.org/the-emulators-book
read_on: 2026-11-23
columns: {job_id: job_id, time: accepted_at, model: model, amount: amount}
currency: USD
"""


def wavespeed_invoice(path: Path, jobs: list[dict[str, Any]]) -> Path:
    """As WaveSpeed documents its records, with the names of nested members flattened."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["billing_type", "price", "created_at", "prediction.uuid", "prediction.model_uuid"])
        writer.writerows(
            ["deduct", f"-{job['amount']}", job["accepted_at"], job["job_id"], job["model"]] for job in jobs
        )
    return path


async def compared(database_url: str, path: Path, provider: str, mapping: str) -> list[tuple[str, str | None, str]]:
    """Status, job and difference of what is no plain match."""
    result = await ledger_command(
        database_url, "reconcile", str(path), "--provider", provider, "--mapping", mapping, "--json"
    )
    assert result.exit_code in (0, 1), result.output
    *findings, _ = [json.loads(line) for line in result.stdout.splitlines()]
    some = [one["finding"] for one in findings]
    return [(one["status"], next((line["job_id"] for line in one["lines"]), None), one["difference"]) for one in some]


async def test_an_invoice_out_of_the_book_agrees_and_every_change_of_it_shows(
    priced: Ledger, quick_emulators: Emulators, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    async with image_service(settings_for(tmp_path, priced, quick_emulators, nats_url)) as client:
        asked = [{**SQUARE, "prompt": f"a fox {n}", "variations": n % 2 + 1} for n in range(4)]
        asked.append({**SQUARE, "prompt": "[fails] of itself"})
        asked.append({"prompt": "a boat", "width": 1024, "height": 1024, "provider": "fal", "variations": 2})
        answers = await asyncio.gather(*(client.post("/v1/images/generate", json=one) for one in asked))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 502, 200]
        quick_emulators.fault("reset", at="after", provider="wavespeed", route="POST /api/v3/*")
        lost = await client.post("/v1/images/generate", json={**SQUARE, "prompt": "lost"})
        assert lost.json()["error"]["code"] == "outcome_unknown"

        async def all_are_there() -> bool:
            return len((await priced.usage_log())["items"]) == 7

        await eventually(all_are_there)
    jobs = quick_emulators.billed("wavespeed")["jobs"]
    assert len(jobs) == 8
    path = tmp_path / "nov.csv"
    doubtful = ("in_doubt_found", jobs[-1]["job_id"], "0.000000000")
    whole = await compared(database_url, wavespeed_invoice(path, jobs), "wavespeed", "wavespeed")
    assert whole == [doubtful]

    billed = [n for n, job in enumerate(jobs) if job["amount"] != "0.000000000"]
    first = jobs[billed[0]]
    dearer = [{**first, "amount": "0.100000000"} if job is first else job for job in jobs]
    [changed] = [
        one for one in await compared(database_url, wavespeed_invoice(path, dearer), "wavespeed", "wavespeed")
        if one != doubtful
    ]  # fmt: skip
    assert changed[0] == "price_difference"
    assert float(changed[2]) == pytest.approx(0.1 - float(first["amount"]))
    doubled = await compared(database_url, wavespeed_invoice(path, [*jobs, first]), "wavespeed", "wavespeed")
    assert sorted(doubled) == [("duplicate", first["job_id"], first["amount"]), doubtful]
    dropped = await compared(database_url, wavespeed_invoice(path, jobs[:-1]), "wavespeed", "wavespeed")
    assert dropped == [("in_doubt_not_found", None, f"-{jobs[-1]['amount']}")]

    mapping = tmp_path / "fal.yaml"
    mapping.write_text(FAL)
    with (tmp_path / "fal.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["job_id", "accepted_at", "model", "amount"], extrasaction="ignore")
        table.writeheader()
        table.writerows(quick_emulators.billed("huggingface")["jobs"])
    assert await compared(database_url, tmp_path / "fal.csv", "fal", str(mapping)) == []
