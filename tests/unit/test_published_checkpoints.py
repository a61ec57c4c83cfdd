"""Published checkpoints are found whatever stands around them, and take a few bytes each."""

import io
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger_service import published_checkpoints
from ledger_service.domain.checkpoints import NOTE_BYTES_MAX, Checkpoint, SigningKey, notes_in
from ledger_service.domain.leaves import Key
from ledger_service.published_checkpoints import CheckpointDigests, PublishedCheckpoints, notes_of

KEY = SigningKey("usage-ledger", Ed25519PrivateKey.generate())
ROOT = bytes(32)


def note(size: int, key: SigningKey = KEY) -> str:
    made = Checkpoint(key.name, size, ROOT, None, Key(size, size), datetime(2026, 11, 1, tzinfo=UTC))
    return key.sign(made.text)


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_checkpoints, "_READ_MAX", 1_000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([note(1), note(2)[:-40] + "\n\n", "\n", "torn", "x" * 700 + "\n"]), max_size=120))
def test_a_file_is_read_in_parts_as_it_is_as_a_whole(small_reads: None, parts: list[str]) -> None:
    text = "\n".join(parts)
    assert list(notes_of(io.StringIO(text))) == list(notes_in(text))


def test_what_is_no_checkpoint_of_the_chain_is_counted_as_foreign() -> None:
    other = SigningKey("usage-ledger/2", KEY.private)
    notes = [note(1), note(3), note(2, other), "no note", "x" * (NOTE_BYTES_MAX + 1)]
    found = PublishedCheckpoints("usage-ledger", [KEY.verifier, other.verifier]).take(notes)
    assert ([size for size, _ in found.digests], found.foreign) == ([1, 3], 3)
    assert found.digests.find(2) is None
    assert found.digests.find(3) == dict(found.digests)[3]


def test_a_year_of_them_takes_hundreds_of_megabytes_less_than_their_texts() -> None:
    def some() -> Iterator[tuple[int, bytes]]:
        return ((size, size.to_bytes(32, "big")) for size in range(100_000))

    tracemalloc.start()
    digests = CheckpointDigests()
    for size, digest in some():
        digests.add(size, digest)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 60 * 100_000
    assert digests.find(77_777) == (77_777).to_bytes(32, "big")
    assert all(one == another for one, another in zip(digests, some(), strict=True))
