"""What `ledger doctor` says of seals: the database's chain beside what was published of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest
from nats.aio.client import Client as Nats

from ledger_service import sealing
from ledger_service.config import Settings
from ledger_service.seal_keys import find_or_make_signing_key
from ledger_service.seal_publishing import CheckpointFile, CheckpointStream
from ledger_service.sealing import SealChain, Sealing
from ledger_service.store.pool import Connection
from tests.integration.test_doctor import Finding, doctor

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Sealed:
    """A log that is sealed row by row, and published to the stream and a file; no ledger runs."""

    def __init__(self, database: Database, database_url: str, nats_client: Nats, nats_url: str, folder: Path) -> None:
        self._database, self._urls = database, (database_url, nats_url)
        self._paths = {"seals_key_file": folder / "key.pem", "seals_file": folder / "checkpoints"}
        key = find_or_make_signing_key(Settings(seals_key_file=self._paths["seals_key_file"]))
        assert key is not None
        self.chain = SealChain(key)
        self.file = CheckpointFile(self._paths["seals_file"], self.chain)
        self.stream = CheckpointStream(nats_client, self.chain)

    async def append_and_seal(self) -> None:
        await append(self._database)
        assert await Sealing(self.chain, leaves_max=1).seal(self._database) == 1

    async def publish(self, *places: CheckpointFile | CheckpointStream) -> None:
        for place in places:
            await place.follow(self._database, await place.head())

    async def finding(self, check: str = "seals.chain") -> Finding:
        environment = {f"LEDGER_{name.upper()}": str(path) for name, path in self._paths.items()}
        return (await doctor(*self._urls, **environment))[check]


async def append(database: Connection) -> None:
    await database.execute(
        """
        insert into event_log (account_id, event_id, type, terminal, source, occurred_at, body)
        values ('acme', gen_random_uuid(), 'test', false, 'tests', now(), '{}')
        """
    )


@pytest.fixture
def sealed(database: Database, database_url: str, nats_client: Nats, nats_url: str, tmp_path: Path) -> Sealed:
    return Sealed(database, database_url, nats_client, nats_url, tmp_path)


async def test_a_dump_in_a_new_cluster_is_not_taken_for_an_open_transaction(sealed: Sealed, database: Database) -> None:
    """Its rows are of transactions that this server has not begun: nobody can be told to end one."""
    await append(database)
    await database.execute(
        "update event_log set transaction_id = '9000000000', recorded_at = recorded_at - interval '1 day'"
    )
    finding = await sealed.finding("postgres.horizon")
    assert finding["status"] == "failure"
    assert "9,000,000,000" in finding["found"]
    assert "--epoch=2 --next-transaction-id=411041792" in finding["advice"]
    assert "pg_terminate_backend" not in finding["advice"]


@pytest.mark.parametrize("is_longer", [False, True])
async def test_a_history_that_was_rewritten_with_the_ledgers_key_is_a_failure(
    sealed: Sealed, database: Database, is_longer: bool
) -> None:
    """As long as what was published, or longer: its size says nothing, and its signature is right."""
    for _ in range(2):
        await sealed.append_and_seal()
    await sealed.publish(sealed.stream, sealed.file)
    assert (await sealed.finding())["status"] == "ok"
    await database.execute("update event_log set source = 'forged'")
    await database.execute("truncate seals, seal_nodes")
    for _ in range(2):
        assert await Sealing(sealed.chain, leaves_max=1).seal(database) == 1
    if is_longer:
        await sealed.append_and_seal()
    finding = await sealed.finding()
    assert finding["status"] == "failure"
    assert "2 rows" in finding["found"]
    assert "rewritten" in finding["found"]


async def test_a_place_that_gets_no_checkpoints_any_more_is_told_while_others_do(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that nobody may write to, for one: the newest seal is always a few seconds old."""
    await sealed.append_and_seal()
    await sealed.publish(sealed.stream, sealed.file)

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Earlier":
            return cls.fromtimestamp((datetime.now(UTC) - timedelta(minutes=9)).timestamp(), UTC)

    with monkeypatch.context() as then:
        then.setattr(sealing, "datetime", Earlier)
        await sealed.append_and_seal()
    await sealed.append_and_seal()
    await sealed.publish(sealed.stream)
    finding = await sealed.finding()
    assert finding["status"] == "warning"
    assert "checkpoints (1 rows)" in finding["found"]
    assert "SEALS" not in finding["found"]
    await sealed.publish(sealed.file)
    assert (await sealed.finding())["status"] == "ok"
