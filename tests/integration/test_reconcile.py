"""`ledger reconcile` and `ledger adjust-all` on a real ledger: what is found, what is proposed, what that settles."""

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import Result

from contracts.identifiers import uuid7
from tests.builders import ABSENT, completed, failed
from tests.commands import ledger_command
from tests.rebuilds import differences
from tests.servers import Ledger

MODEL = "wavespeed-ai/flux-dev"
HEADER = "billing_type,price,created_at,prediction.uuid,prediction.model_uuid"
DAY = ("--from", "2026-11-10", "--to", "2026-11-11")


def at(minute: int) -> str:
    return f"2026-11-10T12:{minute:02d}:00Z"


def call(*job_ids: str, cost: str, provider: str = "wavespeed") -> dict[str, Any]:
    return {"provider": provider, "model": MODEL, "job_ids": list(job_ids), "cost": cost}


def done(minute: int, *calls: dict[str, Any], cost: str = "0.03", **fields: Any) -> dict[str, Any]:
    """A completed operation of wavespeed's, with what its calls came to."""
    metadata = {"provider_calls": list(calls)} if calls else ABSENT
    return completed(
        **{"time": at(minute), "provider": "wavespeed", "model": MODEL, "cost": cost, "metadata": metadata, **fields}
    )


def in_doubt(minute: int, cost: str) -> dict[str, Any]:
    error = {"code": "outcome_unknown", "message": "the answer was lost"}
    return failed(time=at(minute), provider="wavespeed", model=MODEL, cost=cost, error=error, status_code=ABSENT)


def row(minute: int, job_id: str, price: str = "-0.03", model: str = MODEL) -> str:
    return f"deduct,{price},{at(minute)},{job_id},{model}"


def invoice(folder: Path, *rows: str, name: str = "nov.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([HEADER, *rows, ""]))
    return path


async def reconciled(database_url: str, path: Path, *options: str, provider: str = "wavespeed") -> Result:
    return await ledger_command(
        database_url, "reconcile", str(path), "--provider", provider, "--mapping", provider, *options
    )


def told(result: Result) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary, and the findings that are no plain matches."""
    *findings, last = [json.loads(line) for line in result.stdout.splitlines()]
    return last["result"], [one["finding"] for one in findings]


def brief(findings: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
    return sorted(
        (one["status"], one["difference"], [line["line"] for line in one["lines"]]) for one in findings
    )  # fmt: skip


async def test_what_both_have_agrees_and_nothing_is_written(ledger: Ledger, database_url: str, tmp_path: Path) -> None:
    await ledger.send(
        done(1, call("j1", cost="0.03")),
        done(2, call("j2", "j3", cost="0.06"), cost="0.06"),
        done(3),
        done(4, call("x1", cost="0.5", provider="stability"), call("j4", cost="0.03"), cost="0.53", retry_count=1),
        completed(time=at(5), provider="stability", cost="7"),
    )
    path = invoice(tmp_path, row(1, "j1"), row(2, "j2"), row(2, "j3"), row(3, "j9"), row(59, "j4"))
    result = await reconciled(database_url, path)
    assert result.exit_code == 0, result.output
    assert "both agree" in result.stderr
    result = await reconciled(database_url, path, "--json", "--export", str(tmp_path / "out"))
    summary, findings = told(result)
    assert (summary["agrees"], summary["total"]["theirs"], findings) == (True, "0.150000000", [])
    assert summary["from"] == "2026-11-10T00:00:00Z"
    exported = [json.loads(line) for line in (tmp_path / "out/findings.jsonl").read_text().splitlines()]
    assert [one["how"] for one in exported] == ["job_id", "job_id", "job_id", "amount"]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        "findings.csv",
        "findings.jsonl",
        "summary.json",
    ]
    assert len((tmp_path / "out/findings.csv").read_text().splitlines()) == 5


async def test_an_earlier_provider_of_a_fallback_is_reconciled_with_its_own_invoice(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    calls = (call("w1", cost="0.03"), call("s1", cost="0.5", provider="stability"))
    await ledger.send(done(4, *calls, cost="0.53", provider="wavespeed", actual_provider="stability", retry_count=1))
    assert (await reconciled(database_url, invoice(tmp_path, row(4, "w1")))).exit_code == 0
    _, [finding] = told(await reconciled(database_url, invoice(tmp_path, row(4, "w1", "-0.04")), "--json"))
    assert (finding["status"], finding["ours"], finding["difference"]) == (
        "price_difference", "0.030000000", "0.010000000",
    )  # fmt: skip
    proposals = tmp_path / "adjustments.jsonl"
    await reconciled(database_url, tmp_path / "nov.csv", "--propose-adjustments", str(proposals))
    # What the other provider billed is in what the operation comes to.
    assert json.loads(proposals.read_text())["cost"] == "0.540000000"


async def test_metadata_with_a_nul_in_it_is_read_like_any_other(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    fallback = (call("j2", cost="0.03"), call("s2", cost="0.5", provider="stability"))
    both = done(2, *fallback, cost="0.53", actual_provider="stability", retry_count=1)
    both["data"]["metadata"]["note"] = "a\u0000b"
    await ledger.send(done(1, metadata={"note": "a\u0000b"}), both)
    result = await reconciled(database_url, invoice(tmp_path, row(1, "j1"), row(2, "j2")))
    assert result.exit_code == 0, result.output


async def test_all_differences_are_found_proposed_and_settled(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    voided, dropped = done(20, call("v1", cost="0.03")), done(21, call("d1", cost="0.03"))
    await ledger.send(
        done(1, call("j1", cost="0.03")), done(2, call("j2", cost="0.03")), in_doubt(10, "0.10"), in_doubt(40, "0.10"),
        voided, dropped,
    )  # fmt: skip
    void = {
        "adjustment_id": str(uuid7()), "account_id": voided["subject"], "kind": "void", "reason": "a gift",
        "reference": {"operation_id": voided["data"]["operation_id"]},
    }  # fmt: skip
    assert (await ledger.http.post("/v1/adjustments", json=void)).status_code == 200
    path = invoice(
        tmp_path, row(1, "j1", "-0.04"), row(2, "j2"), row(2, "j2"), row(11, "found"), row(20, "v1"),
        row(30, "unknown", "-0.50", "other/model"), "topup,100,2026-11-10T00:00:00Z,,",
    )  # fmt: skip
    proposals = tmp_path / "adjustments.jsonl"
    wanted = ("--json", "--propose-adjustments", str(proposals), "--missing-to", "overhead", "--not-billed", *DAY)
    summary, findings = told(await reconciled(database_url, path, *wanted))
    assert brief(findings) == [
        ("duplicate", "0.030000000", [4]),
        ("in_doubt_found", "-0.070000000", [5]),
        ("in_doubt_not_found", "-0.100000000", []),
        ("missing_with_them", "-0.030000000", []),
        ("missing_with_us", "0.500000000", [7]),
        ("price_difference", "0.010000000", [2]),
        ("price_difference", "0.030000000", [6]),
    ]
    assert (summary["total"]["theirs"], summary["total"]["ours"]) == ("0.660000000", "0.290000000")
    first = proposals.read_bytes()
    assert (await reconciled(database_url, path, *wanted)).exit_code == 1
    assert proposals.read_bytes() == first
    for _ in range(2):  # the second time adds nothing
        applied = await ledger_command(database_url, "adjust-all", str(proposals), "--author", "grace")
        assert applied.exit_code == 0, applied.output
        assert "6 adjustments are in the log; what they add up to: $0.340000000" in applied.stdout
    summary, findings = told(await reconciled(database_url, path, *wanted))
    assert brief(findings) == [("duplicate", "0.030000000", [4])]
    assert summary["total"]["difference"] == "0.030000000"
    assert proposals.read_bytes() == b""
    # The provider gives it back.
    credited = invoice(tmp_path, *path.read_text().splitlines()[1:], row(50, "j2", "0.03"), name="credited.csv")
    assert (await reconciled(database_url, credited, *DAY)).exit_code == 0
    assert await differences(database_url) == []


async def test_what_is_rated_again_meanwhile_is_proposed_anew(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    operation = done(1, call("j1", cost="0.03"))
    await ledger.send(operation)
    path, proposals = invoice(tmp_path, row(1, "j1", "-0.04")), tmp_path / "adjustments.jsonl"
    ids = set()
    for _ in range(2):
        await reconciled(database_url, path, "--propose-adjustments", str(proposals))
        ids.add(json.loads(proposals.read_text())["adjustment_id"])
        await ledger_command(database_url, "adjust-all", str(proposals), "--author", "grace")
        assert (await reconciled(database_url, path)).exit_code == 0
        back = {
            "adjustment_id": str(uuid7()), "account_id": operation["subject"], "kind": "rerate", "cost": "0.03",
            "reference": {"operation_id": operation["data"]["operation_id"]}, "reason": "not so",
        }  # fmt: skip
        assert (await ledger.http.post("/v1/adjustments", json=back)).status_code == 200
    assert len(ids) == 2


async def test_sums_of_days_are_compared_and_settled(ledger: Ledger, database_url: str, tmp_path: Path) -> None:
    model = "gpt-image-2"
    await ledger.send(
        *(
            completed(time=f"2026-11-{day:02d}T23:59:59Z", provider="openai", model=model, cost="0.011")
            for day in (9, 10, 10)
        ),
        completed(time="2026-11-11T00:00:00Z", provider="openai", model=model, cost="0.2"),
    )
    path = tmp_path / "cost.csv"
    path.write_text(
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n"
        "1,2,2026-11-09T00:00:00+00:00,,0.0100000000000000,usd,\"gpt-image-2, output\",\n"
        "1,2,2026-11-09T00:00:00+00:00,,0.001,usd,\"gpt-image-2, input\",\n"
        "1,2,2026-11-10T00:00:00+00:00,,0.0230000000000001,usd,\"gpt-image-2, output\",\n"
        "1,2,2026-11-11T00:00:00+00:00,,,,,\n"
        "1,2,2026-11-12T00:00:00+00:00,,0.3,usd,\"whisper-1\",\n"
    )  # fmt: skip
    proposals = tmp_path / "adjustments.jsonl"
    wanted = ("--json", "--propose-adjustments", str(proposals), "--missing-to", "overhead")
    summary, findings = told(await reconciled(database_url, path, *wanted, provider="openai"))
    assert [(one["status"], one["model"], one["at"][:10], one["difference"]) for one in findings] == [
        ("price_difference", model, "2026-11-10", "0.001000000"),
        ("missing_with_them", model, "2026-11-11", "-0.200000000"),
        ("missing_with_us", "whisper-1", "2026-11-12", "0.300000000"),
    ]
    assert summary["files"][0]["rounded"] == 1
    assert (await ledger_command(database_url, "adjust-all", str(proposals), "--author", "grace")).exit_code == 0
    assert (await reconciled(database_url, path, *wanted, provider="openai")).exit_code == 0
    partly = await reconciled(database_url, path, "--from", "2026-11-09T12:00:00Z", provider="openai")
    assert (partly.exit_code, "is within a day of UTC" in partly.stderr) == (1, True)
    assert "it begins at 2026-11-09T00:00:00+00:00" in " ".join(partly.stderr.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--provider", "stability", "--mapping", "wavespeed"), "the mapping is for wavespeed, not for stability"),
        (("--provider", "wavespeed", "--mapping", "nowhere.yaml"), "shipped are openai, wavespeed"),
        (("--provider", "wavespeed", "--mapping", "openai"), "the mapping is for openai"),
        (("--provider", "open ai", "--mapping", "openai"), "--provider"),
        (("--provider", "wavespeed", "--mapping", "wavespeed", "--time-zone", "Mars"), "no IANA name"),
        (("--provider", "wavespeed", "--mapping", "wavespeed", "--from", "2026-11-11", "--to", "2026-11-10"), "ends"),
        (("--provider", "wavespeed", "--mapping", "wavespeed", "--from", "2027-01-01"), "before it begins"),
        (
            ("--provider", "wavespeed", "--mapping", "wavespeed", "--to", "2025-01-01", "--from", "2024-01-01"),
            "no line",
        ),
        (("--provider", "wavespeed", "--mapping", "wavespeed", "bad.csv"), "bad.csv:2:price"),
    ],
)
async def test_what_cannot_be_compared_leaves_nothing_behind(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    invoice(tmp_path, row(1, "j1"))
    invoice(tmp_path, row(1, "j1", "much"), name="bad.csv")
    more = ("--export", "out", "--propose-adjustments", "proposals.jsonl")
    result = await ledger_command(database_url, "reconcile", "nov.csv", *options, *more)
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.stderr.replace("│", " ").split()), result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["bad.csv", "nov.csv"]


async def test_a_file_of_adjustments_is_taken_as_a_whole_or_not_at_all(
    ledger: Ledger, database_url: str, database: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    good = {"adjustment_id": str(uuid7()), "account_id": "acme", "kind": "adjustment", "cost": "1", "reason": "r"}
    for bad, said in (
        ({**good, "cost": "x"}, "a.jsonl:2:cost"),
        ({**good, "kind": "void"}, "a.jsonl:2:reference"),
        ("no JSON", "a.jsonl:2:"),
    ):
        path.write_text(f"{json.dumps(good)}\n{bad if isinstance(bad, str) else json.dumps(bad)}\n")
        result = await ledger_command(database_url, "adjust-all", str(path), "--author", "grace")
        assert (result.exit_code, said in result.stderr) == (1, True), result.stderr
    assert await database.fetchval("select count(*) from usage_log") == 0
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "cost": "2"}) + "\n")
    result = await ledger_command(database_url, "adjust-all", str(path), "--author", "grace")
    assert result.exit_code == 1
    assert "a.jsonl:2" in result.stderr
    assert "1 before it are recorded" in result.stderr
    path.write_text(2 * (json.dumps(good) + "\r\n"), encoding="utf-8-sig", newline="")  # as editors leave it
    result = await ledger_command(database_url, "adjust-all", str(path), "--author", "grace")
    assert result.exit_code == 0
    assert "1 adjustments are in the log; what they add up to: $1.000000000" in result.stdout, "a line twice is one"
