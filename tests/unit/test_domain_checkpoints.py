"""Notes that are not exactly what the log's own key signed over exactly one text are none."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger_service.domain.checkpoints import (
    Checkpoint,
    CheckpointError,
    SigningKey,
    VerifierKey,
    VerifierKeyError,
    open_note,
)
from ledger_service.domain.leaves import Key

KEY = SigningKey("usage-ledger", Ed25519PrivateKey.generate())
ANOTHER = SigningKey("usage-ledger", Ed25519PrivateKey.generate())
CHECKPOINT = Checkpoint("usage-ledger", 70, bytes(32), bytes(32), Key(812, 9), datetime(2026, 11, 23, 1, tzinfo=UTC))
ZERO = f"{'A' * 43}="


def test_a_checkpoint_is_read_as_it_was_signed() -> None:
    found = open_note(KEY.sign(CHECKPOINT.text), [KEY.verifier])
    assert (found.checkpoint, found.key) == (CHECKPOINT, KEY.verifier)
    first = replace(CHECKPOINT, previous=None)
    assert open_note(KEY.sign(first.text), [KEY.verifier]).checkpoint == first


@pytest.mark.parametrize(
    ("was", "to"),
    [
        (f"\n{ZERO}\nprev", f"\n{'A' * 42}B=\nprev"),  # the same 32 bytes: the last bits of Base64 are not used
        (f"previous {ZERO}", f"previous {'A' * 42}B="),
        ("through 812 9", "through 0812 9"),
        ("through 812 9", "through 812 09"),
        ("through 812 9", "through 812 -0"),
        ("\n70\n", "\n070\n"),
        ("T01:00:00.000000Z", "T01:00:00.000000+00:00"),
        ("sealed ", "more\nsealed "),
    ],
)
def test_each_checkpoint_has_one_text(was: str, to: str) -> None:
    """Also where the ledger's own key signed the other: the link to it, a hash over its text, has to be one."""
    assert CHECKPOINT.text.count(was) == 1
    with pytest.raises(CheckpointError):
        open_note(KEY.sign(CHECKPOINT.text.replace(was, to)), [KEY.verifier])


def test_a_key_signs_for_its_own_log_alone() -> None:
    other = replace(CHECKPOINT, origin="usage-ledger/2")
    with pytest.raises(CheckpointError, match="key usage-ledger signed a checkpoint of usage-ledger/2"):
        open_note(KEY.sign(other.text), [KEY.verifier])


def test_witnesses_may_sign_too_and_do_not_stand_in_for_the_log() -> None:
    note = KEY.sign(CHECKPOINT.text)
    witnessed = note + SigningKey("witness.example", ANOTHER.private).sign(CHECKPOINT.text).rpartition("\n\n")[2]
    assert open_note(witnessed, [KEY.verifier]).checkpoint == CHECKPOINT
    with pytest.raises(CheckpointError, match="no trusted key signed it"):
        open_note(witnessed, [ANOTHER.verifier])


def test_a_wrong_signature_of_a_known_key_is_not_made_good_by_another_one() -> None:
    forged = ANOTHER.sign(CHECKPOINT.text)
    line = KEY.sign(replace(CHECKPOINT, size=71).text).rpartition("\n\n")[2]
    with pytest.raises(CheckpointError, match="is wrong"):
        open_note(forged + line, [KEY.verifier, ANOTHER.verifier])


def test_a_verifier_key_that_was_copied_wrongly_is_none() -> None:
    text = str(KEY.verifier)
    assert VerifierKey.parse(f" {text}\n") == KEY.verifier
    name, key_id, encoded = text.split("+", 2)
    cut = base64.b64encode(base64.b64decode(encoded)[:-1]).decode()
    wrong = (
        f"{name}+{ANOTHER.verifier.id.hex()}+{encoded}",
        f"other+{key_id}+{encoded}",
        f"{name}+{key_id}+{str(ANOTHER.verifier).split('+', 2)[2]}",
        f"{name}+{key_id}+{cut}",
        f"{name}+{key_id}",
        encoded,
    )
    for one in wrong:
        with pytest.raises(VerifierKeyError):
            VerifierKey.parse(one)
