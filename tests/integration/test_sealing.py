"""Every row is sealed once, in commit order, into one chain, whatever crashes, waits or races."""

import asyncio
import fcntl
import os
import random
import signal
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx
import nats.errors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from contracts.subjects import SEALS, SEALS_STREAM
from ledger_service import seal_publishing
from ledger_service.config import Settings
from ledger_service.domain.checkpoints import Checkpoint, SignedCheckpoint, SigningKey, VerifierKey, notes_in
from ledger_service.domain.leaves import COLUMNS, CopyReader, Key, LeafError, decode, encode
from ledger_service.published_checkpoints import PublishedCheckpoints
from ledger_service.seal_keys import SealKeyError, find_or_make_signing_key, find_signing_key, trusted_keys
from ledger_service.seal_publishing import CheckpointFile, CheckpointStream, read_stream
from ledger_service.seal_verification import SealReport, verify_seals
from ledger_service.sealing import SealChain, Sealing, SealsDivergedError
from ledger_service.store.pool import Connection, Pool
from ledger_service.store.seals import open_pool
from ledger_service.stream import stream_config
from ledger_service.workers.sealer import Sealer
from tests.builders import completed, new_id
from tests.servers import WAIT_SECONDS, LedgerProcess, eventually

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
CHAIN = SealChain(SigningKey("usage-ledger", Ed25519PrivateKey.generate()))


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(database_url)
    yield opened
    await opened.close()


async def append(database: Connection, rows: int = 1) -> None:
    await database.execute(
        """
        insert into event_log (account_id, event_id, type, terminal, source, occurred_at, body)
        select 'acme', gen_random_uuid(), 'test', false, 'tests', now(), '{}' from generate_series(1, $1)
        """,
        rows,
    )


async def verify(url: str, *keys: VerifierKey, **published: list[str]) -> SealReport:
    origin, believed = "usage-ledger", keys or [CHAIN.key.verifier]
    found = {place: PublishedCheckpoints(origin, believed).take(notes) for place, notes in published.items()}
    with ThreadPoolExecutor(1) as executor:
        return await verify_seals(url, origin, believed, found, executor)


async def sizes(database: Database) -> list[int]:
    return [row["size"] for row in await database.fetch("select size from seals order by size")]


# --- order


async def test_what_commits_late_is_sealed_once_and_in_order(
    database: Database, database_url: str, writing_pool: Pool
) -> None:
    sealing = Sealing(CHAIN)
    await append(database, 2)
    assert await sealing.seal(database) == 2
    async with writing_pool.acquire() as early, writing_pool.acquire() as late:
        slow = early.transaction()
        await slow.start()
        await append(early)
        await append(late, 3)
        assert await sealing.seal(database) == 0, "a transaction that began earlier may still add rows before them"
        await append(early, 2)
        await slow.commit()
        assert await sealing.seal(database) == 6
        assert await sealing.seal(database) == 0
        sealed = await database.fetch(
            "select count(*) as rows from event_log group by transaction_id order by transaction_id"
        )
    assert [row["rows"] for row in sealed] == [2, 3, 3]
    report = await verify(database_url)
    assert (report.differences, report.rows) == ([], 8)


async def test_sealing_waits_for_nobody_and_nobody_for_it(database: Database, writing_pool: Pool) -> None:
    await append(database, 3)
    async with writing_pool.acquire() as other, other.transaction():
        assert await Sealing(CHAIN).seal(other) == 3
        # It has sealed, and not committed yet.
        await asyncio.wait_for(append(database, 5), WAIT_SECONDS)
        assert await asyncio.wait_for(Sealing(CHAIN).seal(database), WAIT_SECONDS) == 0


async def test_several_sealers_beside_writers_make_one_chain(database: Database, database_url: str) -> None:
    """Of different ages: each finds what the others sealed since it last did."""
    rows, writing = 600, asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(database_url)
        chance = random.Random(7)
        try:
            for _ in range(rows // 3 // 4):
                async with connection.transaction():
                    await append(connection, 4)
                    await asyncio.sleep(chance.random() * 0.004)
        finally:
            await connection.close()

    async def keep_sealing() -> int:
        connection, sealing, sealed = await asyncpg.connect(database_url), Sealing(CHAIN, leaves_max=29), 0
        try:
            while not writing.is_set() or await sealing.seal(connection):
                sealed += await sealing.seal(connection)
                await asyncio.sleep(0.001)
            return sealed
        finally:
            await connection.close()

    sealers = [asyncio.create_task(keep_sealing()) for _ in range(3)]
    await asyncio.gather(*(write() for _ in range(3)))
    writing.set()
    await asyncio.gather(*sealers)
    while await Sealing(CHAIN).seal(database):
        pass
    report = await verify(database_url)
    assert (report.differences, report.rows) == ([], rows)
    made = await sizes(database)
    assert made[-1] == rows
    assert len(made) > 5


async def test_a_leaf_is_what_the_log_has(database: Database) -> None:
    """The encoding that the guide describes is what PostgreSQL sends."""
    bodies = ['{"a": "ü\\u0000\\ud83e"}', "{ }", '{"n":1.10,"n":2}']
    for body in bodies:
        await database.execute(
            """
            insert into event_log (account_id, event_id, type, operation_id, terminal, source, source_sequence,
                                   occurred_at, body)
            values ($2, $3, 'test', $3, true, 'tests/ü', 9007199254740993, '2199-12-31 23:59:59.999999+00', $1)
            """,
            body, "acme" if body == "{ }" else "", new_id(),
        )  # fmt: skip
    await append(database)
    reader, leaves = CopyReader(), []

    async def take(data: bytes) -> None:
        for place in range(0, len(data), 7):
            leaves.extend(reader.feed(data[place : place + 7]))

    query = f"select {', '.join(COLUMNS)} from event_log order by transaction_id, position"
    await database.copy_from_query(query, output=take, format="binary")
    reader.close()
    assert [encode(decode(leaf)) for leaf in leaves] == leaves
    assert [decode(leaf).body for leaf in leaves] == [*bodies, "{}"]
    rows = await database.fetch(
        f"select {', '.join(COLUMNS)} from event_log order by transaction_id, position".replace(
            "transaction_id,", "transaction_id::text::bigint as transaction_id,", 1
        )
    )
    assert [decode(leaf)._asdict() for leaf in leaves] == [dict(row) for row in rows]
    for broken in (b"", leaves[0][:40], b"\x00\x05" + leaves[0][2:]):
        with pytest.raises(LeafError):
            decode(broken)


# --- publishing


async def test_what_was_signed_and_not_published_is_published_in_the_next_round(
    database: Database, database_url: str, pool: Pool, nats_client: Nats, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "checkpoints"
    for _ in range(3):  # three rounds that crashed between their commit and the first word to anybody
        await append(database)
        await Sealing(CHAIN).seal(database)
    stream, file = CheckpointStream(nats_client, CHAIN), CheckpointFile(path, CHAIN)
    sealer = Sealer(pool, Sealing(CHAIN), stream, file)
    await append(database)
    assert await sealer.seal_and_publish() == 1
    assert await sealer.seal_and_publish() == 0
    notes = list(notes_in(path.read_text()))
    assert len(notes) == 4
    assert [note async for note in read_stream(nats_client)] == notes
    assert (await verify(database_url, file=notes, stream=notes)).published == {"file": 4, "stream": 4}

    cut = path.read_bytes()
    for end in (len(cut) - 2, len(cut) - 30, len(cut) - 120, len(cut) - 300):  # torn anywhere in its last checkpoint
        path.write_bytes(cut[:end])
        await sealer.seal_and_publish()
        head = await file.head()
        assert head is not None
        assert head.checkpoint.size == 4
        report = await verify(database_url, file=list(notes_in(path.read_text())))
        assert report.holds
        assert report.published["file"] >= 4


async def test_several_publish_each_checkpoint_once(
    database: Database, database_url: str, nats_client: Nats, tmp_path: Path
) -> None:
    pools = [await open_pool(database_url) for _ in range(3)]
    path = tmp_path / "checkpoints"
    sealers = [
        Sealer(pool, Sealing(CHAIN), CheckpointStream(nats_client, CHAIN), CheckpointFile(path, CHAIN))
        for pool in pools
    ]
    for _ in range(8):
        await append(database)
        await asyncio.gather(*(sealer.seal_and_publish() for sealer in sealers))
    await sealers[0].seal_and_publish()
    notes = list(notes_in(path.read_text()))
    assert [note async for note in read_stream(nats_client)] == notes
    assert len(notes) == len(await sizes(database))
    for pool in pools:
        await pool.close()


async def test_what_piled_up_is_sealed_at_once(database: Database, pool: Pool, nats_client: Nats) -> None:
    """One seal has its bound, and does not wait for the next interval to go on."""
    await append(database, 17)
    sealer = Sealer(pool, Sealing(CHAIN, leaves_max=5), CheckpointStream(nats_client, CHAIN), None)
    running = asyncio.create_task(sealer.run(interval_seconds=3600))

    async def is_sealed() -> bool:
        return await sizes(database) == [5, 10, 15, 17]

    try:
        await eventually(is_sealed, "all of it is sealed")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_who_comes_too_late_publishes_nothing_again(database: Database, nats_client: Nats) -> None:
    """Also once NATS has forgotten the ids of the messages, by which it knows what it has already."""
    forgetful = replace(stream_config(1, SEALS_STREAM, [SEALS]), duplicate_window=0.1)
    await nats_client.jetstream().update_stream(forgetful)
    streams = [CheckpointStream(nats_client, CHAIN) for _ in range(2)]
    heads = [await stream.head() for stream in streams]
    assert heads == [None, None]
    for _ in range(2):
        await append(database)
        await Sealing(CHAIN).seal(database)
    for stream in streams:
        await stream.follow(database, None)
        await asyncio.sleep(0.3)
    assert len([note async for note in read_stream(nats_client)]) == 2


async def test_a_seal_that_follows_another_history_is_not_published(database: Database, tmp_path: Path) -> None:
    """Signed with the ledger's key as it may be: the published one before it has to be the one that it names."""
    file = CheckpointFile(tmp_path / "checkpoints", CHAIN)
    sealing = Sealing(CHAIN)
    for _ in range(2):
        await append(database)
        await sealing.seal(database)
        if await file.head() is None:
            await file.follow(database, None)
    text = (await database.fetchval("select note from seals where size = 2")).partition("\n\n")[0] + "\n"
    other = replace(Checkpoint.parse(text), previous=bytes(32))
    await database.execute("update seals set note = $1 where size = 2", CHAIN.key.sign(other.text))
    published = (tmp_path / "checkpoints").read_text()
    with pytest.raises(SealsDivergedError, match="does not follow the one before it"):
        await file.follow(database, await file.head())
    assert (tmp_path / "checkpoints").read_text() == published


def test_a_file_is_appended_to_by_one_at_a_time(tmp_path: Path) -> None:
    """Which looks, once it may, at what the others wrote."""
    signed: list[SignedCheckpoint] = []
    for size in range(1, 4):
        previous = signed[-1].checkpoint.digest if signed else None
        one = Checkpoint("usage-ledger", size, bytes(32), previous, Key(size, 1), datetime.now(UTC))
        signed.append(SignedCheckpoint(one, CHAIN.key.sign(one.text), CHAIN.key.verifier))
    path = tmp_path / "checkpoints"
    with ThreadPoolExecutor(1) as other:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            appended = other.submit(CheckpointFile(path, CHAIN)._append, signed)
            with pytest.raises(TimeoutError):
                appended.result(0.2)
            file.write(signed[0].note + "\n" + signed[1].note + "\n")
        appended.result(5)
    assert list(notes_in(path.read_text())) == [one.note for one in signed]


async def test_keys_and_checkpoints_are_on_the_disk_before_they_count(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and so is their name in the folder: a crash of the machine takes neither back."""
    synced: set[tuple[int, int]] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced.add((status.st_ino, 0 if stat.S_ISDIR(status.st_mode) else status.st_size))

    def is_on_the_disk(path: Path) -> bool:
        status = path.stat()
        return {(status.st_ino, status.st_size), (path.parent.stat().st_ino, 0)} <= synced

    monkeypatch.setattr(os, "fsync", noting)
    key_file = tmp_path / "keys" / "key.pem"
    assert find_or_make_signing_key(settings(seals_key_file=key_file)) is not None
    assert is_on_the_disk(key_file)
    path = tmp_path / "published" / "checkpoints"
    file = CheckpointFile(path, CHAIN)
    for _ in range(2):
        await append(database)
        await Sealing(CHAIN).seal(database)
        await file.follow(database, await file.head())
        assert is_on_the_disk(path)


async def test_a_first_checkpoint_that_a_crash_cut_off_appears_again_in_full(
    database: Database, tmp_path: Path
) -> None:
    """Wherever it was cut; and what is somebody else's stays, however it looks."""
    path = tmp_path / "checkpoints"
    file = CheckpointFile(path, CHAIN)
    await append(database)
    await Sealing(CHAIN).seal(database)
    await file.follow(database, None)
    first, whole = await file.head(), path.read_bytes()
    assert first is not None
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        await file.follow(database, await file.head())
        assert whole.rstrip() in path.read_bytes(), end
        assert await file.head() == first
        assert list(notes_in(path.read_text(errors="replace")))[-1] == first.note
    strangers = SigningKey("usage-ledger", Ed25519PrivateKey.generate())
    for foreign in (strangers.sign(first.checkpoint.text), first.checkpoint.text.replace("usage", "other")):
        path.write_text(foreign)
        with pytest.raises(SealsDivergedError, match="name another file"):
            await file.head()


async def test_foreign_messages_and_files_do_not_mislead(
    database: Database, pool: Pool, nats_client: Nats, tmp_path: Path
) -> None:
    stream = CheckpointStream(nats_client, CHAIN)
    sealer = Sealer(pool, Sealing(CHAIN), stream, None)
    await append(database)
    await sealer.seal_and_publish()
    for foreign in (b"", b"nonsense", b"\xff\xfe", CHAIN.key.sign("usage-ledger\n1\n").encode()):
        await nats_client.jetstream().publish(SEALS, foreign)
    await append(database)
    assert await sealer.seal_and_publish() == 1
    head = await stream.head()
    assert head is not None
    assert head.checkpoint.size == 2
    path = tmp_path / "notes"
    path.write_text("somebody's notes\n")
    with pytest.raises(SealsDivergedError, match="name another file"):
        await CheckpointFile(path, CHAIN).head()
    assert path.read_text() == "somebody's notes\n"


async def test_the_head_of_a_stream_is_the_longest_checkpoint_of_its_end_and_not_the_last(
    database: Database, nats_client: Nats
) -> None:
    """Whoever may publish there can send an old one once more: it is signed, and in older states of the database."""
    stream, sealing = CheckpointStream(nats_client, CHAIN), Sealing(CHAIN)
    for _ in range(3):
        await append(database, 1)
        await sealing.seal(database)
    await stream.follow(database, await stream.head())
    notes = [note async for note in read_stream(nats_client)]
    for note in (notes[0], notes[1], "no checkpoint at all"):
        await nats_client.jetstream().publish(SEALS, note.encode())
    for reader in (CheckpointStream(nats_client, CHAIN), stream):
        head = await reader.head()
        assert head is not None
        assert head.checkpoint.size == 3
    # It goes on after the longest, and sends none again.
    await append(database, 1)
    await sealing.seal(database)
    await stream.follow(database, await stream.head())
    head = await stream.head()
    assert head is not None
    assert head.checkpoint.size == 4
    assert len([note async for note in read_stream(nats_client)]) == 7


async def test_a_running_ledger_remembers_the_longest(
    database: Database, nats_client: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_publishing, "LOOKED_BACK_MAX", 2)
    stream, sealing = CheckpointStream(nats_client, CHAIN), Sealing(CHAIN)
    for _ in range(2):
        await append(database, 1)
        await sealing.seal(database)
    await stream.follow(database, await stream.head())
    assert (head := await stream.head()) is not None
    first, _ = [note async for note in read_stream(nats_client)]
    for _ in range(5):
        await nats_client.jetstream().publish(SEALS, first.encode())
    again = await stream.head()
    assert again is not None
    assert again.checkpoint == head.checkpoint


async def test_a_stream_that_stops_half_way_is_not_read_as_a_short_one(
    nats_client: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = ["one", "two", "three"]
    for note in notes:
        await nats_client.jetstream().publish(SEALS, note.encode())
    assert [note async for note in read_stream(nats_client)] == notes
    next_message = JetStreamContext.PushSubscription.next_msg

    async def next_of_two(*arguments: Any, **named: Any) -> Msg:
        message = await next_message(*arguments, **named)
        if message.data == b"three":
            raise nats.errors.TimeoutError
        return message

    monkeypatch.setattr(JetStreamContext.PushSubscription, "next_msg", next_of_two)
    with pytest.raises(nats.errors.TimeoutError):
        _ = [note async for note in read_stream(nats_client)]


async def test_over_an_older_state_of_the_database_nothing_is_signed(
    database: Database, pool: Pool, nats_client: Nats, tmp_path: Path
) -> None:
    """As after a restored backup: another checkpoint of a size that was published would contradict it."""
    path = tmp_path / "checkpoints"

    def sealer(with_file: bool) -> Sealer:
        file = CheckpointFile(path, CHAIN) if with_file else None
        return Sealer(pool, Sealing(CHAIN), CheckpointStream(nats_client, CHAIN), file)

    for _ in range(3):
        await append(database)
        await sealer(True).seal_and_publish()
    await database.execute("delete from seals where size = 3")
    await append(database, 5)
    before = await sizes(database)
    for with_file in (True, False):
        with pytest.raises(SealsDivergedError, match="ends at 2"):
            await sealer(with_file).seal_and_publish()
    assert await sizes(database) == before
    assert len(list(notes_in(path.read_text()))) == 3


async def test_transaction_ids_that_begin_anew_are_noticed(database: Database) -> None:
    await append(database)
    await database.execute("update event_log set transaction_id = '9000000000'")
    await database.execute("set session_replication_role = default")
    sealing = Sealing(CHAIN)
    await append(database)
    assert await sealing.seal(database) == 1, "rows of the future wait"
    await database.execute("update seals set through_transaction_id = '9000000000'")
    row = await database.fetchrow("select note from seals")
    assert row is not None
    forged = row["note"].partition("\n\n")[0].split("\n")
    forged[3] = "through 9000000000 1"
    await database.execute("update seals set note = $1", CHAIN.key.sign("\n".join(forged) + "\n"))
    # Above all ids of the log, at the beginning of a file of pg_xact: else PostgreSQL does not start for want of it.
    with pytest.raises(SealsDivergedError, match=r"begin anew.*--epoch=2 --next-transaction-id=411041792") as raised:
        await Sealing(CHAIN).seal(database)
    assert 9_000_000_000 < (2 << 32) + 411_041_792 < 9_000_000_000 + 2**20
    assert "LEDGER_SEALS_ORIGIN" not in str(raised.value), "another chain would seal none of those rows either"


# --- keys


def settings(**changes: Any) -> Settings:
    return Settings(**changes)


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key.pem"
    assert find_signing_key(settings(seals_key_file=path)) is None
    assert find_or_make_signing_key(settings()) is None
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: find_or_make_signing_key(settings(seals_key_file=path)), range(8)))
    keys = {str(key.verifier) for key in made if key}
    assert len(made) == 8
    assert len(keys) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]
    [key] = keys
    assert str(VerifierKey.parse(key)) == key
    given = find_signing_key(settings(seals_key=path.read_text(), seals_origin="other/log"))
    assert given is not None
    assert given.verifier.name == "other/log"
    assert trusted_keys(settings(seals_trusted_keys=f" {key}\n{given.verifier} ")) == (
        VerifierKey.parse(key), given.verifier,
    )  # fmt: skip


def test_a_key_that_will_not_do_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    find_or_make_signing_key(settings(seals_key_file=path))
    path.chmod(0o640)
    with pytest.raises(SealKeyError, match="chmod 600"):
        find_signing_key(settings(seals_key_file=path))
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(SealKeyError, match="no private key in PEM"):
        find_signing_key(settings(seals_key_file=path))
    with pytest.raises(SealKeyError, match="cannot be made"):
        find_or_make_signing_key(settings(seals_key_file=path / "below a file"))
    for wrong in ("usage-ledger", "a+b+c", f"{CHAIN.key.verifier}".replace("usage", "other")):
        with pytest.raises(SealKeyError, match="LEDGER_SEALS_TRUSTED_KEYS"):
            trusted_keys(settings(seals_trusted_keys=wrong))


# --- crashes of the whole process


async def test_killed_anywhere_it_goes_on_with_the_same_chain(
    ledger_process: Callable[..., LedgerProcess],
    database: Database,
    database_url: str,
    nats_client: Nats,
    tmp_path: Path,
) -> None:
    """kill -9 while it seals as fast as it can; whatever it was doing, the next one goes on from there."""
    chance = random.Random(11)
    sealing = {
        "seals_key_file": tmp_path / "key.pem",
        "seals_file": tmp_path / "checkpoints",
        "seals_interval_seconds": 0.001,
    }
    process = ledger_process(**sealing)
    for _ in range(2):
        deadline = asyncio.get_running_loop().time() + 0.2 + chance.random() * 0.5
        async with process.client() as client:
            while asyncio.get_running_loop().time() < deadline:
                try:
                    await client.send(*(completed() for _ in range(chance.randrange(1, 8))))
                except httpx.HTTPError:
                    break
        process.end(signal.SIGKILL)
        process = ledger_process(**sealing)
    rows = await database.fetchval("select count(*) from event_log")
    assert rows > 20

    async def all_sealed() -> bool:
        made = await sizes(database)
        return bool(made) and made[-1] == rows

    await eventually(all_sealed, "all is sealed")
    process.end(signal.SIGTERM)
    key = find_signing_key(settings(seals_key_file=tmp_path / "key.pem"))
    assert key is not None
    published = list(notes_in((tmp_path / "checkpoints").read_text()))
    streamed = [note async for note in read_stream(nats_client)]
    report = await verify(database_url, key.verifier, file=published, stream=streamed)
    assert (report.differences, report.rows) == ([], rows)
    assert streamed == published
    assert report.checkpoints - 1 <= len(streamed) <= report.checkpoints
    assert report.checkpoints > 5
