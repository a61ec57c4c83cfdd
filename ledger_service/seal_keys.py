"""The keys of seals: the private one of this ledger, and the public ones whose checkpoints are believed."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ledger_service.config import Settings
from ledger_service.domain.checkpoints import SigningKey, VerifierKey, VerifierKeyError

_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class SealKeyError(Exception):
    """The keys of seals are not as they must be; its text says which, and what to do."""


def find_signing_key(settings: Settings) -> SigningKey | None:
    """This ledger's key; None where none is set, or its file was not made yet. Raises SealKeyError."""
    if settings.seals_key is not None:
        return _read(settings.seals_key.get_secret_value().encode(), settings.seals_origin, "LEDGER_SEALS_KEY")
    path = settings.seals_key_file
    if path is None:
        return None
    try:
        if path.stat().st_mode & _OPEN_TO_OTHERS:
            raise SealKeyError(f"{path} can be read by others: chmod 600 it")
        return _read(path.read_bytes(), settings.seals_origin, str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SealKeyError(f"the key file cannot be read: {error}") from None


def find_or_make_signing_key(settings: Settings) -> SigningKey | None:
    """The same, and the file is made where it is missing. Of processes that make it at once, the first one's counts."""
    if settings.seals_key is None and settings.seals_key_file is not None and not settings.seals_key_file.exists():
        try:
            _make(settings.seals_key_file)
        except OSError as error:
            raise SealKeyError(f"the key file cannot be made: {error}") from None
    return find_signing_key(settings)


def trusted_keys(settings: Settings) -> tuple[VerifierKey, ...]:
    """Those of the settings, beside this ledger's own. Raises SealKeyError."""
    try:
        return tuple(VerifierKey.parse(text) for text in settings.seals_trusted_keys.split())
    except VerifierKeyError as error:
        raise SealKeyError(f"LEDGER_SEALS_TRUSTED_KEYS: {error}") from None


def _read(pem: bytes, origin: str, where: str) -> SigningKey:
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SealKeyError(f"{where} is no private key in PEM without a password") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SealKeyError(f"{where} is not a key of Ed25519: openssl genpkey -algorithm ed25519 makes one")
    return SigningKey(origin, private)


def _make(path: Path) -> None:
    """Whole or not at all: linked to its name once it is on the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        unfinished.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names of new files in it last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
