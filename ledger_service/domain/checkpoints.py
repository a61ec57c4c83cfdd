"""Checkpoints: what the whole log was at one moment, as a text that is signed.

The text is a C2SP tlog-checkpoint, signed as a C2SP signed-note with Ed25519, so that the tools of transparency logs
read it: https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note. Three extension lines say what came before
(SHA-256 of the previous checkpoint's text), the last row that is in it, and when it was made::

    usage-ledger
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
    previous 5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGk=
    through 81234 20853004
    sealed 2026-11-22T22:41:07.412000Z

    — usage-ledger Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""

import base64
import re
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contracts.identifiers import ORIGIN_PATTERN
from ledger_service.domain.leaves import Key

#: Of a note: ours have 500. What is longer is none.
NOTE_BYTES_MAX: Final = 16_384

_ED25519: Final = b"\x01"
_PUBLIC_BYTES: Final = 32
_KEY_ID_BYTES: Final = 4
_SIGNATURE_LINE: Final = re.compile(r"— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/]+={0,2})")
_NOTE: Final = re.compile(r"(?P<text>(?:[^\n]+\n)+)\n(?P<signatures>(?:— [^\n]+\n)+)")
_CHECKPOINT: Final = re.compile(
    r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"(?:previous (?P<previous>[A-Za-z0-9+/]{43}=)\n)?"
    r"through (?P<transaction_id>[0-9]{1,20}) (?P<position>-?[0-9]{1,19})\n"
    r"sealed (?P<sealed>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)\n"
)


class CheckpointError(ValueError):
    """A text that is no checkpoint, or a note that no trusted key has signed."""


class VerifierKeyError(ValueError):
    """A text that is no verifier key."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key and the name it signs under, as ``<name>+<key id>+<base64(0x01 || public key)>``."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_text(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Raises VerifierKeyError where it is none, or its id is not that of its key."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise VerifierKeyError("a verifier key is <name>+<key id>+<key>, as `ledger seals key` prints it")
        name, key_id, encoded = parts
        try:
            decoded = base64.b64decode(encoded, validate=True)
        except Base64Error:
            raise VerifierKeyError("the last part of a verifier key is Base64") from None
        if len(decoded) != 1 + _PUBLIC_BYTES or decoded[:1] != _ED25519:
            raise VerifierKeyError("the verifier key is not one of Ed25519")
        key = cls(name, decoded[1:])
        if not re.match(ORIGIN_PATTERN, name) or key.id.hex() != key_id:
            raise VerifierKeyError("the verifier key's id is not that of its name and key: it was copied wrongly")
        return key


@dataclass(frozen=True)
class SigningKey:
    """The private key of a log."""

    name: str
    private: Ed25519PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """The signed note of this text."""
        signature = self.verifier.id + self.private.sign(text.encode())
        return f"{text}\n— {self.name} {_text(signature)}\n"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log: ``size`` leaves, the last of them at ``through``."""

    origin: str
    size: int
    root: bytes
    #: SHA-256 of the text of the checkpoint before; None of the first one.
    previous: bytes | None
    through: Key
    sealed_at: datetime

    @property
    def text(self) -> str:
        previous = "" if self.previous is None else f"previous {_text(self.previous)}\n"
        sealed = self.sealed_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return (
            f"{self.origin}\n{self.size}\n{_text(self.root)}\n{previous}"
            f"through {self.through.transaction_id} {self.through.position}\nsealed {sealed}\n"
        )

    @property
    def digest(self) -> bytes:
        """What the next checkpoint names as its previous one."""
        return sha256(self.text.encode()).digest()

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Raises CheckpointError where it is none of this form."""
        found = _CHECKPOINT.fullmatch(text)
        if found is None:
            raise CheckpointError("not a checkpoint of a usage ledger")
        try:
            checkpoint = cls(
                origin=found["origin"],
                size=int(found["size"]),
                root=base64.b64decode(found["root"]),
                previous=None if found["previous"] is None else base64.b64decode(found["previous"]),
                through=Key(int(found["transaction_id"]), int(found["position"])),
                sealed_at=datetime.fromisoformat(found["sealed"]),
            )
        except ValueError as error:
            raise CheckpointError(f"not a checkpoint of a usage ledger: {error}") from None
        if checkpoint.text != text:  # a hash whose last bits are not zero, for one
            raise CheckpointError("not the canonical text of a checkpoint")
        return checkpoint


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint, the note it came in, and the key whose signature was verified."""

    checkpoint: Checkpoint
    note: str
    key: VerifierKey


def open_note(note: str, keys: Iterable[VerifierKey]) -> SignedCheckpoint:
    """Verifies a note and reads its checkpoint. Signatures of unknown keys, witnesses' for one, are ignored.

    Raises CheckpointError where no known key signed it, where a known key's signature is wrong, or where it is no
    checkpoint of the log that the key is named after.
    """
    found = _NOTE.fullmatch(note) if len(note) <= NOTE_BYTES_MAX else None
    if found is None:
        raise CheckpointError("not a signed note")
    known, signer = {(key.name, key.id): key for key in keys}, None
    for key_name, key_id, signature in _signatures(found["signatures"]):
        key = known.get((key_name, key_id))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, found["text"].encode())
        except InvalidSignature:
            raise CheckpointError(f"the signature of key {key.id.hex()} is wrong") from None
        signer = signer or key
    if signer is None:
        names = ", ".join(f"{name}+{key_id.hex()}" for name, key_id, _ in _signatures(found["signatures"]))
        raise CheckpointError(f"no trusted key signed it: signed by {names or 'nobody'}")
    checkpoint = Checkpoint.parse(found["text"])
    if checkpoint.origin != signer.name:
        raise CheckpointError(f"key {signer.name} signed a checkpoint of {checkpoint.origin}")
    return SignedCheckpoint(checkpoint, note, signer)


def _signatures(lines: str) -> Iterator[tuple[str, bytes, bytes]]:
    for line in lines.splitlines():
        found = _SIGNATURE_LINE.fullmatch(line)
        if found is None:
            continue
        try:
            decoded = base64.b64decode(found["signature"], validate=True)
        except Base64Error:
            continue
        yield found["name"], decoded[:_KEY_ID_BYTES], decoded[_KEY_ID_BYTES:]


def notes_in(text: str) -> Iterator[str]:
    """The notes of a file to which notes were appended; what a crash cut off is skipped."""
    return (note for note, _ in notes_and_ends(text))


def notes_and_ends(text: str) -> Iterator[tuple[str, int]]:
    """The same, each with where in the text it ends."""
    for found in _NOTE.finditer(text):
        yield found[0], found.end()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def hash_text(digest: bytes) -> str:
    """A hash as it stands in JSON and in checkpoints."""
    return _text(digest)
