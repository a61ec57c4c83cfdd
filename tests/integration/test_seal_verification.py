"""Whatever is done to a sealed log, or to its seals, is found and named."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.problems import NOT_SEALED_YET, ProblemError
from ledger_service import seal_rows, seal_verification
from ledger_service.domain.checkpoints import SigningKey, VerifierKey, notes_in
from ledger_service.domain.seal_differences import Kind
from ledger_service.proofs import prove_row
from ledger_service.published_checkpoints import PublishedCheckpoints
from ledger_service.seal_publishing import CheckpointFile
from ledger_service.seal_verification import SealReport, verify_seals
from ledger_service.sealing import SealChain, Sealing, SealsDivergedError
from ledger_service.store import seals as store
from tests.builders import new_id

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
ORIGIN = "usage-ledger"
#: In five transactions of six rows each; seals of seven rows end in the middle of them.
ROWS, PER_TRANSACTION, PER_SEAL = 30, 6, 7


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several are verified at once, as of a long log."""
    monkeypatch.setattr(seal_verification, "STRETCH_ROWS", 10)


def make_key() -> SigningKey:
    return SigningKey(ORIGIN, Ed25519PrivateKey.generate())


@dataclass
class SealedLog:
    """A log of 30 rows under five seals, and the file to which they were published."""

    database: Database
    url: str
    file: Path
    key: SigningKey = field(default_factory=make_key)
    events: list[str] = field(default_factory=list)

    async def append(self, rows: int = PER_TRANSACTION) -> None:
        async with self.database.transaction():
            for _ in range(rows):
                self.events.append(await insert(self.database, f"account-{len(self.events) % 4}"))

    async def seal(self, key: SigningKey | None = None, *trusted: VerifierKey) -> None:
        """Until all is sealed and in the file."""
        chain = SealChain(key or self.key, trusted)
        sealing, file = Sealing(chain, leaves_max=PER_SEAL), CheckpointFile(self.file, chain)
        head = await file.head()
        await sealing.must_go_on_from(self.database, [head] if head else [])
        while await sealing.seal(self.database):
            pass
        await file.follow(self.database, head)

    async def verify(self, *keys: VerifierKey, published: bool = True) -> SealReport:
        believed = keys or [self.key.verifier]
        notes = notes_in(self.file.read_text()) if published else ()
        found = {"the file": PublishedCheckpoints(ORIGIN, believed).take(notes)} if published else {}
        with ThreadPoolExecutor(1) as executor:
            return await verify_seals(self.url, ORIGIN, believed, found, executor)

    async def found(self, *keys: VerifierKey, published: bool = True) -> list[tuple[Kind, str]]:
        """What is wrong with which row: its event's place among those that were appended, or its id."""
        report = await self.verify(*keys, published=published)
        assert report.holds == (not report.differences)
        return [(one.kind, self.name(str(one.row.event_id)) if one.row else one.detail) for one in report.differences]

    def name(self, event_id: str) -> str:
        return str(self.events.index(event_id)) if event_id in self.events else event_id


async def insert(database: Database, account_id: str, **columns: Any) -> str:
    event_id = columns.pop("event_id", None) or new_id()
    row = {
        "account_id": account_id, "event_id": event_id, "type": "usage.operation.completed.v1",
        "operation_id": new_id(), "terminal": True, "source": "tests", "source_sequence": None,
        "body": f'{{"id": "{event_id}", "text": "größer"}}', **columns,
    }  # fmt: skip
    names = ", ".join(row)
    values = ", ".join(f"${place}" for place in range(1, len(row) + 1))
    await database.execute(
        f"insert into event_log ({names}, occurred_at) overriding system value values ({values}, now())", *row.values()
    )
    return str(event_id)


@pytest.fixture
async def sealed_log(database: Database, database_url: str, tmp_path: Path) -> SealedLog:
    log = SealedLog(database, database_url, tmp_path / "checkpoints")
    for _ in range(ROWS // PER_TRANSACTION):
        await log.append()
    await log.seal()
    return log


async def test_what_was_sealed_holds(sealed_log: SealedLog) -> None:
    report = await sealed_log.verify()
    assert report.differences == []
    assert (report.rows, report.checkpoints, report.unsealed) == (30, 5, 0)
    assert report.published == {"the file": 5}
    await sealed_log.append(2)
    assert (await sealed_log.verify()).unsealed == 2
    await sealed_log.seal()
    assert (await sealed_log.verify()).rows == 32


async def test_what_is_sealed_during_verification_is_no_difference(
    sealed_log: SealedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 256 rows, so that nodes are kept above them."""
    bounds_before = store.bounds

    async def bounds(*arguments: Any) -> Any:
        found = await bounds_before(*arguments)
        await sealed_log.append(600)
        assert await Sealing(SealChain(sealed_log.key)).seal(sealed_log.database) == 600
        return found

    monkeypatch.setattr(store, "bounds", bounds)
    assert await sealed_log.found() == []


async def test_an_empty_log_holds(database: Database, database_url: str, tmp_path: Path) -> None:
    log = SealedLog(database, database_url, tmp_path / "checkpoints")
    await log.seal()
    log.file.touch()
    report = await log.verify()
    assert (report.holds, report.rows, report.checkpoints) == (True, 0, 0)


CHANGES = {
    "account_id": "'somebody-else'",
    "event_id": "gen_random_uuid()",
    "type": "type || 'x'",
    "operation_id": "gen_random_uuid()",
    "operation_id, terminal": "null, false",
    "terminal": "not terminal",
    "source": "''",
    "source_sequence": "0",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "recorded_at": "recorded_at - interval '1 microsecond'",
    "body": "(body::text || ' ')::json",
}


@pytest.mark.parametrize("columns", CHANGES)
async def test_a_row_that_was_changed_is_named(sealed_log: SealedLog, columns: str) -> None:
    event = sealed_log.events[16]
    await sealed_log.database.execute(
        f"update event_log set ({columns}) = row ({CHANGES[columns]}) where event_id = $1", event
    )
    assert await sealed_log.found() == [(Kind.CHANGED, "16")]


@pytest.mark.parametrize("column", ["transaction_id", "position"])
@pytest.mark.parametrize("to", ["first", "last", "neighbour"])
async def test_a_row_that_was_moved_is_named(sealed_log: SealedLog, column: str, to: str) -> None:
    values = {
        "first": {"transaction_id": "'1'::xid8", "position": "-1"},
        "last": {"transaction_id": "'9000000000'::xid8", "position": "position + 1000"},
        "neighbour": {"transaction_id": "((transaction_id::text::bigint) - 1)::text::xid8", "position": "position - 1"},
    }
    if column == "position":
        await sealed_log.database.execute("alter table event_log alter position set generated by default")
    # The neighbour in position is another row; that in transaction_id is not a transaction of the log.
    await sealed_log.database.execute(
        f"update event_log set {column} = {values[to][column]} where event_id = $1", sealed_log.events[16]
    )
    assert (Kind.CHANGED, "16") in await sealed_log.found()
    assert len(await sealed_log.found()) == 1


@pytest.mark.parametrize("places", [[0], [15], [29], [6], list(range(30)), [3, 4, 20]])
async def test_rows_that_are_missing_are_named(sealed_log: SealedLog, places: Sequence[int]) -> None:
    ids = [sealed_log.events[place] for place in places]
    await sealed_log.database.execute("delete from event_log where event_id = any ($1::uuid[])", ids)
    assert await sealed_log.found() == [(Kind.MISSING, str(place)) for place in places]


async def test_a_table_that_was_emptied_is_noticed(sealed_log: SealedLog) -> None:
    await sealed_log.database.execute("truncate event_log")
    assert len(await sealed_log.found()) == ROWS


async def test_of_a_table_that_was_emptied_few_rows_are_held_in_memory(
    sealed_log: SealedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []

    def compare_with_seals(*arguments: Any) -> Any:
        named.append(seal_rows.compare_with_seals(*arguments))
        return named[-1]

    monkeypatch.setattr(seal_verification, "DIFFERENCES_MAX", 4)
    monkeypatch.setattr(seal_verification, "compare_with_seals", compare_with_seals)
    await sealed_log.database.execute("truncate event_log")
    report = await sealed_log.verify()
    assert (len(report.differences), report.unnamed) == (4, ROWS - 4)
    assert [len(found) for found, _ in named] == [4, 4, 4]


async def test_a_row_that_stands_there_twice_is_named(sealed_log: SealedLog) -> None:
    """Both are what was sealed, and a rebuild would count both."""
    await sealed_log.database.execute("drop index event_log_one_outcome")
    await sealed_log.database.execute("alter table event_log drop constraint event_log_pkey")
    await sealed_log.database.execute(
        "insert into event_log overriding system value select * from event_log where event_id = $1",
        sealed_log.events[16],
    )
    assert await sealed_log.found() == [(Kind.INSERTED, "16")]


async def test_rows_that_do_not_fit_never_pass_because_none_can_be_named(
    sealed_log: SealedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sealed_log.database.execute("delete from event_log where event_id = $1", sealed_log.events[16])
    monkeypatch.setattr(seal_verification, "compare_with_seals", lambda *_: ([], 0))
    [(kind, detail)] = await sealed_log.found()
    assert kind is Kind.CHECKPOINT
    assert "the rows after the first 14" in detail


async def test_a_row_that_was_slipped_in_is_named(sealed_log: SealedLog) -> None:
    at = await sealed_log.database.fetchrow(
        "select transaction_id::text as id, position from event_log where event_id = $1", sealed_log.events[16]
    )
    assert at is not None
    rows = {
        "before all": {"transaction_id": "3"},
        "inside": {"transaction_id": at["id"], "position": at["position"] * 1000},
        "at the same place": {"transaction_id": at["id"], "position": at["position"]},
        "in the future": {"transaction_id": "9000000000"},
        "where no row can be before": {"transaction_id": "0", "position": -(2**63)},
    }
    database, inserted = sealed_log.database, []
    for columns in rows.values():
        event_id = await insert(database, "account-1")
        sets = ", ".join(f"{name} = '{value}'" for name, value in columns.items())
        await database.execute("alter table event_log alter position set generated by default")
        await database.execute(f"update event_log set {sets} where event_id = $1", event_id)
        inserted.append(event_id)
    report = await sealed_log.verify()
    assert {str(one.row.event_id) for one in report.differences if one.row} == set(inserted)
    assert {one.kind for one in report.differences} == {Kind.INSERTED}
    assert len(report.differences) == len(inserted)


@pytest.mark.parametrize("columns", ["position", "body", "event_id", "transaction_id"])
async def test_rows_that_changed_places_are_named(sealed_log: SealedLog, columns: str) -> None:
    first, second = sealed_log.events[4], sealed_log.events[22]
    await sealed_log.database.execute("alter table event_log drop constraint event_log_pkey")
    await sealed_log.database.execute("alter table event_log alter position set generated by default")
    await sealed_log.database.execute(
        f"""
        update event_log e set {columns} = o.{columns}
        from event_log o
        where (e.event_id, o.event_id) in (($1, $2), ($2, $1))
        """,
        first,
        second,
    )
    found = await sealed_log.found()
    assert {kind for kind, _ in found} == {Kind.CHANGED}
    assert {name for _, name in found} == {"4", "22"}


async def test_a_row_that_is_sealed_while_it_is_proven_is_proven_or_not_sealed_yet(
    sealed_log: SealedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never one that is said to be outside of a size that nobody asked for."""
    await sealed_log.append(1)
    operation = await sealed_log.database.fetchval(
        "select operation_id from event_log where event_id = $1", sealed_log.events[-1]
    )
    chain = SealChain(sealed_log.key)

    def sealing_after(read: Any) -> Any:
        async def work(*arguments: Any) -> Any:
            found = await read(*arguments)
            await sealed_log.seal()
            return found

        return work

    for name in ("latest_notes", "find_covering"):
        monkeypatch.setattr(store, name, sealing_after(getattr(store, name)))
    with pytest.raises(ProblemError) as refused:
        await prove_row(sealed_log.database, chain, operation, "account-2", None)
    assert refused.value.kind is NOT_SEALED_YET
    proof = await prove_row(sealed_log.database, chain, operation, "account-2", None)
    assert (proof.leaf_index, proof.checkpoint.size) == (ROWS, ROWS + 1)


# --- what may be done to the seals


async def test_a_history_that_was_rewritten_with_another_key_is_found(sealed_log: SealedLog) -> None:
    database, forger = sealed_log.database, make_key()
    await database.execute("update event_log set source = 'forged' where event_id = $1", sealed_log.events[3])
    await database.execute("truncate seals, seal_nodes")
    sealing = Sealing(SealChain(forger), PER_SEAL)
    while await sealing.seal(database):
        pass
    found = await sealed_log.found(published=False)
    assert [kind for kind, _ in found] == [Kind.CHECKPOINT] * 5
    assert all("no trusted key signed it" in detail for _, detail in found)
    assert await sealed_log.found(forger.verifier, published=False) == [], "whoever trusts that key is deceived"


async def test_a_history_that_was_rewritten_with_the_ledgers_key_is_not_what_was_published(
    sealed_log: SealedLog,
) -> None:
    database = sealed_log.database
    await database.execute("update event_log set source = 'forged' where event_id = $1", sealed_log.events[2])
    await database.execute("truncate seals, seal_nodes")
    sealing = Sealing(SealChain(sealed_log.key), PER_SEAL)
    while await sealing.seal(database):
        pass
    assert await sealed_log.found(published=False) == [], "a thief of the key deceives whoever has no copy"
    found = await sealed_log.found()
    assert [kind for kind, _ in found] == [Kind.PUBLISHED] * 5
    await sealed_log.append()
    with pytest.raises(SealsDivergedError, match="was rewritten"):
        await sealed_log.seal()


async def test_an_end_that_was_cut_off_is_not_what_was_published(sealed_log: SealedLog) -> None:
    database = sealed_log.database
    await database.execute("delete from seals where size > 14")
    await database.execute("delete from event_log where event_id = any ($1::uuid[])", sealed_log.events[14:])
    assert await sealed_log.found(published=False) == []
    found = await sealed_log.found()
    assert [kind for kind, _ in found] == [Kind.PUBLISHED] * 3
    assert all("was cut off" in detail for _, detail in found)
    with pytest.raises(SealsDivergedError, match="an older state"):
        await sealed_log.seal()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("delete from seals where size = 14", "not the one before it"),
        ("delete from seals where size = 7", "not the one before it"),
        ("update seals set leaf_hashes = overlay(leaf_hashes placing '\\x00' from 5) where size = 14", "do not give"),
        ("update seals set leaf_hashes = substring(leaf_hashes from 33) where size = 14", "another number of rows"),
        ("update seals set root = sha256(root) where size = 14", "not what was signed"),
        ("update seals set through_position = through_position + 1 where size = 14", "not what was signed"),
        ("update seals set note = replace(note, 'sealed 2', 'sealed 3') where size = 14", "signature"),
        ("update seals s set note = (select note from seals where size = 7) where size = 14", "not what was signed"),
    ],
)
async def test_a_seal_that_was_changed_is_named(sealed_log: SealedLog, damage: str, said: str) -> None:
    await sealed_log.database.execute(damage)
    found = await sealed_log.found(published=False)
    assert any(kind is Kind.CHECKPOINT and said in detail for kind, detail in found), found


async def test_seals_of_another_chain_do_not_pass_for_those_of_this_one(sealed_log: SealedLog) -> None:
    """Both keys are believed: of a chain that was given up, and of the one after it."""
    other = SigningKey(f"{ORIGIN}/2", sealed_log.key.private)
    while await Sealing(SealChain(other), PER_SEAL).seal(sealed_log.database):
        pass
    await sealed_log.database.execute("delete from seals where origin = $1", ORIGIN)
    await sealed_log.database.execute("update seals set origin = $1", ORIGIN)
    found = await sealed_log.found(sealed_log.key.verifier, other.verifier, published=False)
    assert [kind for kind, _ in found] == [Kind.CHECKPOINT] * 5
    assert all("it is one of the chain usage-ledger/2" in detail for _, detail in found)
    chain = SealChain(sealed_log.key, (other.verifier,))
    with pytest.raises(SealsDivergedError, match="the chain usage-ledger/2"):
        await Sealing(chain).seal(sealed_log.database)


async def test_a_checkpoint_that_names_another_predecessor_is_found(sealed_log: SealedLog) -> None:
    """Signed by the ledger's own key: as if it had been told two stories."""
    row = await sealed_log.database.fetchrow("select note from seals where size = 14")
    assert row is not None
    lines = row["note"].partition("\n\n")[0].split("\n")
    lines[3] = f"previous {'A' * 43}="
    note = sealed_log.key.sign("\n".join(lines) + "\n")
    await sealed_log.database.execute("update seals set note = $1 where size = 14", note)
    found = await sealed_log.found(published=False)
    assert [detail for _, detail in found if "predecessor" in detail] == [detail for _, detail in found]
    assert ["of 14 rows" in detail for _, detail in found] == [True, False]


async def test_hashes_for_proofs_that_were_changed_are_found(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    log = SealedLog(database, database_url, tmp_path / "checkpoints")
    async with database.transaction():
        await database.execute(
            """
            insert into event_log (account_id, event_id, type, terminal, source, occurred_at, body)
            select 'acme', gen_random_uuid(), 'bulk', false, 'tests', now(), '{}' from generate_series(1, 600)
            """
        )
    chain = SealChain(log.key)
    assert await Sealing(chain).seal(database) == 600
    assert await log.found(published=False) == []
    await database.execute("update seal_nodes set hash = sha256(hash) where index = 1")
    [(kind, detail)] = await log.found(published=False)
    assert kind is Kind.CHECKPOINT
    assert "kept for proofs" in detail
    with pytest.raises(SealsDivergedError, match="do not give the root"):
        await Sealing(chain).seal(database)


async def test_damaged_names_do_not_hide_that_something_is_wrong(sealed_log: SealedLog) -> None:
    await sealed_log.database.execute("update seals set leaf_identities = '\\x00' where size = 14")
    await sealed_log.database.execute("delete from event_log where event_id = $1", sealed_log.events[9])
    found = await sealed_log.found()
    assert any("of 14 rows is damaged" in detail for _, detail in found)


# --- keys


async def test_a_key_may_be_changed_while_the_chain_goes_on(sealed_log: SealedLog) -> None:
    before, after = sealed_log.key, make_key()
    await sealed_log.append()
    with pytest.raises(SealsDivergedError, match="LEDGER_SEALS_TRUSTED_KEYS"):
        await sealed_log.seal(after)
    await sealed_log.seal(after, before.verifier)
    both = await sealed_log.verify(before.verifier, after.verifier)
    assert (both.differences, both.rows, both.checkpoints) == ([], 36, 6)
    assert {kind for kind, _ in await sealed_log.found(after.verifier, published=False)} == {Kind.CHECKPOINT}
