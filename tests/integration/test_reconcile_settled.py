"""What a reconciliation proposes settles it: after a fallback, of large bills, beside months that are in archives."""

import json
from pathlib import Path

import pytest

from ledger_service.domain import reconciliation_report
from tests.builders import completed
from tests.commands import ledger_command
from tests.integration.test_reconcile import (
    DAY,
    HEADER,
    MODEL,
    at,
    brief,
    call,
    done,
    in_doubt,
    invoice,
    reconciled,
    row,
    told,
)
from tests.servers import Ledger

SIMPLE = """
provider: PROVIDER
source: https://example.org
read_on: 2026-11-23
currency: USD
columns: {job_id: id, time: at, model: what, amount: cost}
"""


async def settle(database_url: str, path: Path, proposals: Path, provider: str, mapping: str, *options: str) -> int:
    """Records what is proposed; how many that were."""
    asked = ("reconcile", str(path), "--provider", provider, "--mapping", mapping, *options)
    await ledger_command(database_url, *asked, "--propose-adjustments", str(proposals))
    count = len(proposals.read_text().splitlines())
    if count:
        applied = await ledger_command(database_url, "adjust-all", str(proposals), "--author", "grace")
        assert applied.exit_code == 0, applied.output
    return count


async def test_after_a_fallback_each_providers_bill_is_settled_once_and_not_by_the_others(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    calls = (call("w1", cost="0.03"), call("s1", cost="0.5", provider="stability"))
    await ledger.send(done(4, *calls, cost="0.53", provider="wavespeed", actual_provider="stability", retry_count=1))
    stability = tmp_path / "stability.yaml"
    stability.write_text(SIMPLE.replace("PROVIDER", "stability"))
    other = tmp_path / "other.csv"
    other.write_text(f"id,at,what,cost\ns1,{at(4)},{MODEL},0.6\n")
    bills = (invoice(tmp_path, row(4, "w1", "-0.04")), "wavespeed", "wavespeed"), (other, "stability", str(stability))
    counts = [
        await settle(database_url, path, tmp_path / "proposed.jsonl", provider, mapping)
        for path, provider, mapping in (*bills, *bills)
    ]
    assert counts == [1, 1, 0, 0]
    usage = await ledger.usage(period="2026-11")
    assert usage["totals"]["cost"] == "0.640000000"
    assert [usage["by_provider"][name]["cost"] for name in usage["by_provider"]] == ["0.640000000"]


async def test_a_call_in_doubt_stays_so_while_the_bill_of_one_before_it_is_settled(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    calls = (call("s1", cost="0.5", provider="stability"), call("w1", cost="0.03"))
    event = in_doubt(4, "0.53")
    event["data"] |= {"metadata": {"provider_calls": calls}, "retry_count": 1}
    await ledger.send(event)
    mapping = tmp_path / "stability.yaml"
    mapping.write_text(SIMPLE.replace("PROVIDER", "stability"))
    bill = tmp_path / "bill.csv"
    bill.write_text(f"id,at,what,cost\ns1,{at(4)},{MODEL},0.6\n")
    proposals, other = tmp_path / "proposed.jsonl", invoice(tmp_path, row(50, "w9"))
    assert await settle(database_url, bill, proposals, "stability", str(mapping)) == 1
    _, findings = told(await reconciled(database_url, other, "--json"))
    assert brief(findings)[0] == ("in_doubt_not_found", "-0.030000000", [])
    assert await settle(database_url, other, proposals, "wavespeed", "wavespeed") == 1
    assert (await ledger.usage(period="2026-11"))["totals"]["cost"] == "0.600000000"
    assert await settle(database_url, bill, proposals, "stability", str(mapping)) == 0


async def test_what_is_more_than_an_adjustment_may_be_is_named_and_not_left_out_in_silence(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await ledger.send(done(1, call("j1", cost="0.03")))
    proposals = tmp_path / "proposed.jsonl"
    path = invoice(tmp_path, row(1, "j1", "-1000000.01"), row(2, "j2", "-1000000"), row(3, "j3", "-2500000.5"))
    wanted = ("--missing-to", "overhead", "--propose-adjustments", str(proposals))
    shown = await reconciled(database_url, path, *wanted)
    said = " ".join(shown.stderr.split())
    assert "1 adjustments proposed" in said
    assert "2 findings are not among them: an adjustment is $1000000 at most" in said
    assert "nov.csv line 2 (job j1): $1000000.010000000 of acme" in said
    assert "nov.csv line 4 (job j3): $2500000.500000000 of overhead" in said
    summary, _ = told(await reconciled(database_url, path, *wanted, "--json"))
    assert summary["proposals"] == {
        "adjustments": 1,
        "too_large": [
            {"finding": f"nov.csv line {line} (job {job})", "account_id": account, "cost": cost}
            for line, job, account, cost in (
                (2, "j1", "acme", "1000000.010000000"), (4, "j3", "overhead", "2500000.500000000")
            )
        ],
        "not_kept": 0,
    }  # fmt: skip
    assert [json.loads(line)["cost"] for line in proposals.read_text().splitlines()] == ["1000000.000000000"]


async def test_lines_outside_of_the_range_are_told_so_that_an_invoice_still_adds_up(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await ledger.send(done(1, call("j1", cost="0.03")), done(2, call("j2", cost="0.04"), cost="0.04"))
    later = row(0, "j3", "-0.5").replace("2026-11-10T12:00", "2026-11-11T00:00")
    billed_late = row(2, "j2", "-0.04").replace("2026-11-10T12:02", "2026-11-11T00:30")
    path = invoice(tmp_path, row(1, "j1"), later, billed_late)
    result = await reconciled(database_url, path, *DAY)
    assert result.exit_code == 0, result.output
    assert "1 lines of the files, $0.500000000, are of other times" in " ".join(result.stderr.split())
    summary, _ = told(await reconciled(database_url, path, *DAY, "--json"))
    assert summary["outside"] == {"lines": 1, "theirs": "0.500000000"}
    assert summary["total"]["theirs"] == "0.070000000"
    sums = tmp_path / "sums.yaml"
    sums.write_text(SIMPLE.replace("PROVIDER", "wavespeed").replace("columns: {job_id: id, ", "rows: day\ncolumns: {"))
    days = tmp_path / "days.csv"
    days.write_text(f"id,at,what,cost\n,2026-11-10T00:00:00Z,{MODEL},0.07\n,2026-11-11T00:00:00Z,{MODEL},0.5\n")
    asked = ("reconcile", str(days), "--provider", "wavespeed", "--mapping", str(sums), *DAY, "--json")
    summary, _ = told(await ledger_command(database_url, *asked))
    assert (summary["agrees"], summary["outside"]) == (True, {"lines": 1, "theirs": "0.500000000"})


async def test_the_first_month_that_is_in_no_archive_is_reconciled_and_it_says_what_cannot_be_looked_at(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    def on(day: str, job: str) -> dict[str, object]:
        return completed(
            time=f"{day}T12:00:00Z", provider="wavespeed", model=MODEL, cost="0.03",
            metadata={"provider_calls": [call(job, cost="0.03")]},
        )  # fmt: skip

    await ledger.send(on("2025-05-31", "j1"), on("2025-06-01", "j2"))
    closed = await ledger.http.put("/v1/periods/2025-05:close", json={"reason": "books"})
    assert closed.status_code == 200, closed.text
    path = tmp_path / "june.csv"
    path.write_text(f"{HEADER}\ndeduct,-0.03,2025-06-01T13:00:00Z,j2,{MODEL}\n")
    before = await reconciled(database_url, path, "--json")
    assert (before.exit_code, told(before)[0]["archived_before"]) == (0, None)
    done = await ledger_command(database_url, "archive", "--before", "2025-06", "--dir", str(tmp_path / "files"))
    assert done.exit_code == 0, done.output

    result = await reconciled(database_url, path)
    assert result.exit_code == 0, result.output
    assert "operations before 2025-06 are in archives" in " ".join(result.stderr.split())
    assert told(await reconciled(database_url, path, "--json"))[0]["archived_before"] == "2025-06"
    early = await reconciled(database_url, path, "--from", "2025-05-31")
    assert early.exit_code == 1
    assert "period_archived" in early.stderr or "in archives" in early.stderr


async def test_findings_beyond_what_is_kept_are_said_to_be_proposed_nothing_for(
    ledger: Ledger, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation_report, "KEPT_MAX", 1)
    path, proposals = invoice(tmp_path, *(row(n, f"j{n}") for n in range(3))), tmp_path / "proposed.jsonl"
    result = await reconciled(
        database_url, path, "--missing-to", "overhead", "--propose-adjustments", str(proposals), "--json"
    )
    assert told(result)[0]["proposals"] == {"adjustments": 1, "too_large": [], "not_kept": 2}
    assert "of the last 2 findings nothing is proposed" in " ".join(result.stderr.split())


async def test_days_that_are_asked_for_begin_where_those_of_the_files_do(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    """The first hour of a month in Berlin is of the month before in UTC."""
    await ledger.send(completed(time="2026-10-31T23:30:00Z", provider="far", model=MODEL, cost="0.03"))
    path, mapping = tmp_path / "bill.csv", tmp_path / "far.yaml"
    path.write_text(f"id,at,what,cost\n,2026-11-01T00:30:00,{MODEL},0.03\n")
    simple = SIMPLE.replace("PROVIDER", "far").replace("job_id: id, ", "") + "time_zone: Europe/Berlin\n"
    november = ("--from", "2026-11-01", "--to", "2026-12-01", "--json")
    for rows, zone in (("each", ("--time-zone", "Europe/Berlin")), ("day", ()), ("month", ())):
        mapping.write_text(f"{simple}rows: {rows}\n")
        asked = ("reconcile", str(path), "--provider", "far", "--mapping", str(mapping), *november, *zone)
        summary, findings = told(await ledger_command(database_url, *asked))
        assert (summary["agrees"], summary["from"], findings) == (True, "2026-10-31T23:00:00Z", []), rows
    mapping.write_text(f"{simple}rows: each\n")
    other = await ledger_command(
        database_url, "reconcile", str(path), "--provider", "far", "--mapping", str(mapping), *november
    )
    assert "they are from 2026-10-31 to 2026-10-31, in UTC" in " ".join(other.stderr.split())


async def test_an_invoice_that_the_mapping_turns_around_is_asked_about(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await ledger.send(done(1, call("j1", cost="0.03")))
    result = await reconciled(database_url, invoice(tmp_path, row(1, "j1", "0.03")))
    assert result.exit_code == 1
    assert "do charges stand as the mapping says" in result.stderr


async def test_a_job_of_the_month_before_is_told_as_its_invoice_may_have_it_too(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    calls = {"provider_calls": [call("j1", cost="0.03")]}
    await ledger.send(
        completed(time="2026-10-31T23:30:00Z", provider="wavespeed", model=MODEL, cost="0.03", metadata=calls)
    )
    first, again = (row(0, "j1").replace("2026-11-10T12:00", at) for at in ("2026-10-31T23:30", "2026-11-01T00:30"))
    summary, _ = told(await reconciled(database_url, invoice(tmp_path, first), "--json"))
    assert (summary["agrees"], summary["of_other_times"]) == (True, {"charges": 0, "ours": "0.000000000"})
    path = invoice(tmp_path, again)
    summary, _ = told(await reconciled(database_url, path, "--json"))
    assert (summary["agrees"], summary["of_other_times"]) == (True, {"charges": 1, "ours": "0.030000000"})
    assert summary["total"]["ours"] == "0.030000000"
    assert "whether that bills them too" in " ".join((await reconciled(database_url, path)).stderr.split())
    _, findings = told(await reconciled(database_url, invoice(tmp_path, first, again), "--json"))
    assert brief(findings) == [("duplicate", "0.030000000", [3])]
