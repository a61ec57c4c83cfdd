"""Whoever closes a month asks the same in every way there is, and gets the same to the nano-dollar.

Months at random (tests.months): MONTH_CLOSE_SEEDS says how many, MONTH_CLOSE_FIRST from which one on.
"""

import json
import os
from collections import Counter
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from ledger_service.store import statements
from tests.conftest import StartLedger
from tests.months.asking import Asking, Known
from tests.months.book import Entry, following
from tests.months.commands import command, commands, reconciled, views
from tests.months.history import History
from tests.rebuilds import differences, rebuilt
from tests.servers import Ledger, eventually

FIRST = int(os.environ.get("MONTH_CLOSE_FIRST", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("MONTH_CLOSE_SEEDS", "1")))
IS_SHORT = len(SEEDS) == 1
QUESTIONS = 20 if IS_SHORT else 80
FORMATS = ("csv", "html", "pdf", "page")


async def moment_of(ledger: Ledger) -> str:
    """As the database has it, when all that was written before is in it."""
    answer = await ledger.http.get("/v1/plans")
    return str(answer.headers["ledger-read-at"])


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_answer_is_the_same_to_the_nano_dollar_then_and_now(
    ledger: Ledger, database_url: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(ledger, seed)
    await history.begin()
    then, known = await moment_of(ledger), Known(list(history.book.entries), dict(history.zones))
    await history.end()

    now = Asking(history)
    for asking in (now, Asking(history, known, then)):
        await asking.summaries()
        await asking.statements(FORMATS[:2] if IS_SHORT and asking.as_of else FORMATS)
        await asking.usage_log()
        await asking.corrections()
        await asking.limits()
        await asking.exports()
        sources = Counter([await asking.usage() for _ in range(QUESTIONS)])
        assert len(sources) == 1 if asking.as_of else len(sources) > 1
    await now.late(known.entries, then)
    await now.pages()
    monkeypatch.setattr(statements, "ENTRIES_MAX", 3)
    for account, month in {(one.account, one.booked) for one in history.book.entries}:
        await now.pages_of_a_statement(account, month, 3)
    monkeypatch.undo()
    await views(history, database_url)
    await commands(now, database_url, tmp_path, 1 if IS_SHORT else len(history.accounts))
    for provider in ("far", "north") if IS_SHORT else ("local", "far", "north"):
        await reconciled(history, database_url, tmp_path, provider)


@pytest.mark.parametrize("seed", SEEDS)
async def test_months_in_archives_leave_every_other_answer_as_it_was_and_the_seals_too(
    start_ledger: StartLedger, database_url: str, tmp_path: Path, seed: int
) -> None:
    seals = {"seals_key_file": tmp_path / "keys/key.pem", "seals_file": tmp_path / "keys/checkpoints"}
    ledger = await start_ledger(**seals, seals_interval_seconds=0.05)
    history = History(ledger, seed)
    await history.begin()
    await history.end()
    asking = Asking(history)
    first, account = history.months[0], history.random.choice(history.accounts)
    earlier = (first - timedelta(days=1)).replace(day=1)
    begins = history.random.choice((following(first), history.months[2], following(history.months[2])))
    months = [month for month in history.booked_months() if month >= begins]
    whole = [(await asking.get(f"/v1/accounts/{account}/statements/{month:%Y-%m}")).content for month in months]
    await command(database_url, "archive", "--before", f"{begins:%Y-%m}", "--dir", str(tmp_path))

    await asking.summaries()
    since = datetime.combine(begins, time(), UTC)
    sources = Counter([await asking.usage(since) for _ in range(QUESTIONS)])
    assert {"refused", "usage_hourly"} < set(sources)
    assert whole == [(await asking.get(f"/v1/accounts/{account}/statements/{month:%Y-%m}")).content for month in months]
    for month in (earlier, first):
        refused = await ledger.http.get(f"/v1/accounts/{account}/statements/{month:%Y-%m}")
        booked = [one for one in history.of(account) if one.booked <= month]
        if month == first or booked:
            assert refused.json()["code"] == "period_archived", refused.text
    refused = await ledger.http.get("/v1/exports/usage-log", params={"format": "csv"})
    assert refused.json()["code"] == "period_archived", refused.text
    assert await differences(database_url) == []
    assert (await rebuilt(database_url)).replaced.total() == 0
    await command(database_url, "unarchive", "--since", "2023-01", "--dir", str(tmp_path))
    await asking.exports()
    await asking.statements(("csv",))
    await asking.usage_log()
    await _sealed(ledger, history.book.entries[-1])
    key = (await ledger.http.get("/v1/seals/key")).json()["key"]
    asked = ("--key", key, "--file", str(seals["seals_file"]), "--no-stream", "--processes", "1", "--json")
    told = json.loads(await command(database_url, "seals", "verify", *asked))
    assert (told["holds"], told["differences"]) == (True, []), told


async def _sealed(ledger: Ledger, last: Entry) -> None:
    async def is_sealed() -> bool:
        query = {"account_id": last.account}
        return (await ledger.http.get(f"/v1/usage-log/{last.id}/proof", params=query)).status_code == 200

    await eventually(is_sealed, "the last of them is sealed")
