"""Checks proofs of the usage ledger with none of its code: the standard library and `cryptography`. Exit 0: they hold.

usage: verify_proof.py 'usage-ledger+1a2b3c4d+AZ…' proof.json [consistency.json …]
The public key is one that you got earlier, or from somebody else than the proofs, which are what these answer:
GET /v1/usage-log/{operation_id}/proof and GET /v1/seals:consistency.
"""

import json
import struct
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
Json = dict[str, Any]  # as it came


def must(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def leaf_of(row: Json) -> bytes:
    """Their number, then the fields, each as its length (4 bytes, big-endian, -1 for null) and its bytes."""
    since = [datetime.fromisoformat(row[name]) - EPOCH for name in ("recorded_at", "occurred_at")]
    fields = [
        struct.pack(">Q", int(row["transaction_id"])), struct.pack(">q", int(row["position"])),
        *(struct.pack(">q", one // timedelta(microseconds=1)) for one in since), UUID(row["event_id"]).bytes,
        struct.pack(">?", row["terminal"]), row["account_id"].encode(), row["type"].encode(), row["source"].encode(),
        row["operation_id"] and UUID(row["operation_id"]).bytes,
        None if row["source_sequence"] is None else struct.pack(">q", row["source_sequence"]), row["body"].encode(),
    ]  # fmt: skip
    return struct.pack(">H", 12) + b"".join(struct.pack(">i", -1 if f is None else len(f)) + (f or b"") for f in fields)


def open_checkpoint(seal: Json, key: str) -> tuple[int, bytes]:
    """Size and root from the signed note: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint"""
    name, key_id, public = key.split("+", 2)
    expected = sha256(f"{name}\n".encode() + b64decode(public)).digest()[:4]
    must(key_id == expected.hex() and b64decode(public)[0] == 1, "the key is none, or was copied wrongly")
    text, _, signatures = seal["note"].partition("\n\n")
    signed = [b64decode(line.split(" ")[2]) for line in signatures.splitlines() if line.startswith(f"— {name} ")]
    signature = next((one[4:] for one in signed if one[:4] == expected), b"")
    Ed25519PublicKey.from_public_bytes(b64decode(public)[1:]).verify(signature, f"{text}\n".encode())
    must(text.startswith(f"{name}\n"), "the checkpoint is one of another log")
    size, root = text.split("\n")[1:3]
    must((seal["key"], seal["size"], seal["root"]) == (key, int(size), root), "the note says something else")
    return int(size), b64decode(root)


def walk(path: list[bytes], place: int, last: int) -> tuple[bytes, bytes]:
    """RFC 9162 §2.1.3.2 and §2.1.4.2: the roots of the older and of the newer tree, from the path's first hash on."""
    older = newer = path[0]
    for step in path[1:]:
        must(last > 0, "the path is too long")
        if place % 2 or place == last:
            older, newer = sha256(b"\x01" + step + older).digest(), sha256(b"\x01" + step + newer).digest()
            while place % 2 == 0 and place:
                place, last = place // 2, last // 2
        else:
            newer = sha256(b"\x01" + newer + step).digest()
        place, last = place // 2, last // 2
    must(last == 0, "the path is too short")
    return older, newer


def check(proof: Json, key: str) -> str:
    path = [b64decode(one) for one in proof["path"]]
    if "row" in proof:
        (size, root), row, index = open_checkpoint(proof["checkpoint"], key), proof["row"], proof["leaf_index"]
        leaf = sha256(b"\x00" + leaf_of(row)).digest()
        must(leaf == b64decode(proof["leaf_hash"]), "the row is not the one that was sealed")
        must(index in range(size), "the tree has no such leaf")
        must(walk([leaf, *path], index, size - 1)[1] == root, "the path does not lead to the root")
        return f"operation {row['operation_id']} of account {row['account_id']} is row {index} of {size} sealed ones"
    (first, old), (second, new) = (open_checkpoint(proof[one], key) for one in ("first", "second"))
    must(0 < first < second, "the second checkpoint is not the larger one")
    level = (first & -first).bit_length() - 1
    path = path if first & (first - 1) else [old, *path]  # a complete subtree begins with its own root
    must(walk(path, first - 1 >> level, second - 1 >> level) == (old, new), "the second does not add to the first")
    return f"the checkpoint of {second} rows only adds to that of {first} rows"


if __name__ == "__main__":
    for file in sys.argv[2:] or sys.exit(__doc__):
        try:
            print(f"OK: {check(json.loads(Path(file).read_text()), sys.argv[1])}")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            sys.exit(f"REFUSED: {file}: {error}")
        except InvalidSignature:
            sys.exit(f"REFUSED: {file}: the checkpoint is not signed by this key")
