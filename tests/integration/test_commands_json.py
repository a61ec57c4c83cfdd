"""`--json` of every command of `ledger`, on one database: standard output has JSON, all of it, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import structlog
from typer.testing import CliRunner, Result

from contracts.subjects import STREAM_SUBJECTS
from ledger_service.cli import app
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.pool import Pool
from tests.builders import adjustment, completed, to_bytes
from tests.conftest import StartLedger
from tests.receivers import QUICK_WEBHOOKS, Receiver, receiving
from tests.servers import Ledger, as_service
from tests.unit.test_commands import commands

BY: Final = ("--author", "grace", "--reason", "a test")
SINCE: Final = ("--from", "2026-08-01", "--to", "2026-09-01")
LISTS: Final = ("applied", "newer", "tokens_made_known")


class Call(NamedTuple):
    """``{folder}`` in a word is a folder of the test's own. ``holds`` of the lines of JSON that come."""

    words: str
    holds: Callable[[list[Any]], bool]  # Any: JSON
    code: int = 0


#: In their order: later ones look at what earlier ones did.
CALLS: Final = (
    Call("migrate", lambda told: told[0] == {"shipped_prices": {}, **{one: [] for one in LISTS}}),
    Call("migrate --shipped-prices", lambda told: sum(told[0]["shipped_prices"].values()) > 10),
    Call("prices load", lambda told: told[0]["changes"] == [] and told[0]["counts"]["unchanged"] > 10),
    Call("prices load {folder}/prices.yaml --dry-run", lambda told: told[0]["changes"][0]["change"] == "new"),
    Call("prices list --provider openai", lambda told: {one["provider"] for one in told} == {"openai"}),
    Call("tokens create script --scope usage:read-all", lambda told: told[0]["token"].startswith("ult_")),
    Call("tokens create filed --scope usage:read-all --file {folder}/token", lambda told: "token" not in told[0]),
    Call("tokens list", lambda told: {"script", "filed"} <= {one["name"] for one in told}),
    Call("tokens revoke script", lambda told: told[0]["revoked_at"] is not None),
    Call(
        "adjust adjustment --account acme --cost=-0.01 --at 2026-08-02 {by}",
        lambda told: told[0]["cost"] == "-0.010000000",
    ),
    Call(
        "adjust-all {folder}/adjustments.jsonl --author grace",
        lambda told: told == [{"adjustments": 1, "cost": "0.250000000"}],
    ),
    Call("reprice {since} {by}", lambda told: told[0]["result"]["looked_at"] == 2),
    Call("backtest {since} --plan {folder}/plan.json", lambda told: told[0]["result"]["total"]["operations"] == 2),
    Call("report estimates {since}", lambda told: told[0]["start"] == "2026-08-01T00:00:00Z"),
    Call("export {folder}/log.csv", lambda told: told[0]["rows"] == 4),
    Call("statement acme 2026-08", lambda told: told[0]["account_id"] == "acme"),
    Call("statement acme 2026-08 --format csv --output {folder}/one.csv", lambda told: told[0]["format"] == "csv"),
    Call("statement acme 2026-08 --format csv", lambda told: told == [], 2),
    Call("periods close 2026-08 --account acme {by}", lambda told: told[0]["period"] == "2026-08"),
    Call("periods list", lambda told: len(told) == 1),
    Call("dead-letters list", lambda told: [one["dead_letter_id"] for one in told] == [2, 1]),
    Call("dead-letters show 1", lambda told: told[0]["state"] == "open"),
    Call("dead-letters redrive 1 {by}", lambda told: told[0]["letters"][0]["outcome"] == "refused", 1),
    Call("dead-letters redrive --all {by}", lambda told: told == [{"outcomes": {"refused": 2}, "letters": []}], 1),
    Call("dead-letters discard 1 {by}", lambda told: told[0]["outcomes"] == {"discarded": 1}),
    Call("dead-letters discard --all {by}", lambda told: told[0]["outcomes"] == {"discarded": 1}),
    Call(
        "archive --before 2026-01 --dir {folder}",
        lambda told: told == [{"before": "2026-01", "dry_run": False, "months": []}],
    ),
    Call("unarchive --since 2026-01 --dir {folder}", lambda told: told == [{"rows": 0, "months": []}]),
    Call("archives", lambda told: told == [[]]),
    Call("seals key", lambda told: told[0]["key"].startswith("usage-ledger+")),
    # Nothing is sealed there by a ledger that seals once an hour, so that nothing is proven.
    Call("seals verify --no-stream", lambda told: (told[0]["holds"], told[0]["checkpoints"]) == (True, 0), 1),
    Call("verify --seals --jobs 1", lambda told: told[0]["differences"] == [] and told[0]["seals"]["holds"] is True, 1),
    Call("rebuild --jobs 1", lambda told: told[0]["left"] == {}),
    Call("webhooks list", lambda told: [one["webhook_id"] for one in told] == ["w"]),
    Call("webhooks pause w", lambda told: told[0]["disabled_reason"] == "paused"),
    Call("webhooks resume w", lambda told: told[0]["disabled_at"] is None),
    Call("webhooks test w", lambda told: told[0]["tries"][0]["status"] == 200),
    Call("webhooks deliveries w", lambda told: [one["state"] for one in told] == ["delivered"]),
    Call("webhooks show w 01920000-0000-7000-8000-000000000000", lambda told: told == [], 1),
    Call("webhooks redeliver w --from 2026-01-01", lambda told: told == [{"queued": 0}]),
    Call("close-gap", lambda told: told[0]["holes"] == []),
    Call("doctor", lambda told: told[0]["status"] == "failure", 1),
)  # fmt: skip
#: Whose files, or receivers, take more to make: by the test that reads their JSON.
ELSEWHERE: Final = {
    "ledger reconcile": "tests/integration/test_reconcile.py",
    "ledger import-alwrity": "tests/integration/test_import_alwrity.py",
}


def test_every_command_is_called_here_or_elsewhere() -> None:
    ledger = {name for name in commands() if name.startswith("ledger ")}
    called = {name for name in ledger for call in CALLS if f"ledger {call.words} ".startswith(f"{name} ")}
    assert ledger - called == set(ELSEWHERE)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Commands send logs elsewhere, for the rest of their process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def test_standard_output_is_json_and_nothing_else(
    start_ledger: StartLedger, database_url: str, nats_url: str, writing_pool: Pool, tmp_path: Path, receiver: Receiver
) -> None:
    key = tmp_path / "key.pem"
    ledger = await start_ledger(seals_key_file=key, seals_interval_seconds=3_600, **QUICK_WEBHOOKS)
    await with_something_in_it(ledger, writing_pool, receiver)
    make_files(tmp_path)
    runner = CliRunner(
        env={
            "LEDGER_DATABASE_URL": as_service(database_url),
            "LEDGER_OWNER_DATABASE_URL": database_url,
            "LEDGER_NATS_URL": nats_url,
            "LEDGER_SEALS_KEY_FILE": str(key),
        }
    )

    def run(call: Call) -> Result:
        words = call.words.format(folder=tmp_path, by=" ".join(BY[:3]) + " test", since=" ".join(SINCE)).split()
        return runner.invoke(app, [*words, "--json"])

    wrong = {}
    for call in CALLS:
        done = await asyncio.to_thread(run, call)
        if done.exit_code != call.code or not holds(call, done.stdout):
            wrong[call.words] = (done.exit_code, done.stdout[:500], done.stderr[:500])
    assert wrong == {}, "\n".join(f"{words}: {told}" for words, told in wrong.items())


def holds(call: Call, stdout: str) -> bool:
    try:
        return call.holds(json_values(stdout))
    except (ValueError, LookupError, TypeError):
        return False


def json_values(stdout: str) -> list[Any]:  # Any: JSON
    """One a line; what is written as it comes, differences for one, has several lines for one object."""
    texts = [stdout] if stdout.startswith('{"differences"') else stdout.splitlines()
    return [json.loads(text) for text in texts]


async def with_something_in_it(ledger: Ledger, pool: Pool, receiver: Receiver) -> None:
    await ledger.set_up()
    await ledger.send(*(completed(time="2026-08-15T12:00:00Z") for _ in range(2)))
    webhook = {"url": receiver.url(), "types": ["limit_check.denied"]}
    assert (await ledger.http.put("/v1/webhooks/w", json=webhook)).status_code == 200
    letters = Batch()
    for body in (to_bytes(completed(cost=0.03)), b"no event"):
        add_to_batch(letters, body, "jetstream", STREAM_SUBJECTS[1])
    await record(pool, letters)


def make_files(folder: Path) -> None:
    added = adjustment(cost="0.25", occurred_at="2026-08-03T00:00:00Z")
    (folder / "adjustments.jsonl").write_text(json.dumps(added) + "\n")
    (folder / "plan.json").write_text('{"name": "Tight", "limits": []}')
    (folder / "prices.yaml").write_text(
        "prices:\n  - {provider: nobody, model: none, operation: generate, unit: image, valid_from: '2026-01-01',"
        " source: 'https://example.org', read_on: '2026-01-01', variants: [{when: {}, price: '0.04'}]}\n"
    )
