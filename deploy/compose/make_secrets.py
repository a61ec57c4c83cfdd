"""Makes what the containers of compose.yaml know one another by: certificates, nkeys, passwords, tokens.

Runs first, in a container that has no network, and once is enough: what is there is kept, but for certificates of
servers that end within a month. Each service has a folder of its own, a volume that only it mounts (read-only, at
/run/secrets), in files that only its user can read. The private key of the authority is in none of them.

``make_secrets.py`` makes them; with ``--show NAME`` it prints one of the folder ``admin``: ``admin-token`` (of all
scopes), ``finance-password``, ``auditor-password``.
"""

import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contracts.access.principal import Scope
from contracts.access.service_tokens import make_token

SECRETS: Final = Path("/secrets")
PROVIDER_KEYS: Final = Path("/provider-keys")
#: image_stability_key …, as the image service's settings are called.
PROVIDER_KEY: Final = "image_*_key"
#: Of the services and of NATS; in the images of both services.
SERVICE_UID: Final = 10_001
#: Of the user postgres in PostgreSQL's image.
POSTGRES_UID: Final = 999
OWNERS: Final = {
    "authority": 0,
    "admin": 0,
    "postgres": POSTGRES_UID,
    "nats": SERVICE_UID,
    "migrate": SERVICE_UID,
    "ledger": SERVICE_UID,
    "image": SERVICE_UID,
}
ROLES: Final = ("ledger_owner", "ledger_service", "finance", "auditor")
#: By the name in deploy/nats/permissions.conf: the folder that has its seed.
IDENTITIES: Final = {"LEDGER": "ledger", "DEPLOY": "migrate", "IMAGE": "image", "AUDITOR": "admin"}
AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 365
RENEWED_BEFORE_DAYS: Final = 30
#: Clocks differ.
BACKDATED: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Store:
    """The folders of secrets, one for each of OWNERS."""

    root: Path

    def prepare(self) -> None:
        for name, uid in OWNERS.items():
            folder = self.root / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            _give(folder, uid)

    def write(self, place: str, content: str) -> None:
        """Whole or not at all: what is cut off would be kept for ever."""
        folder, _, name = place.partition("/")
        path, new = self.root / place, self.root / folder / f".{name}.new"
        new.write_text(content)
        new.chmod(0o600)
        _give(new, OWNERS[folder])
        new.replace(path)

    def read(self, place: str) -> str:
        return (self.root / place).read_text().strip()

    def kept(self, place: str, made: str) -> str:
        """What is there, else what was made now."""
        if not (self.root / place).exists():
            self.write(place, f"{made}\n")
        return self.read(place)


def _give(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


def make_all(store: Store, *, database_has_tls: bool = True, provider_keys: Path = PROVIDER_KEYS) -> None:
    """All of it. Safe to run again, and while everything runs."""
    store.prepare()
    _make_certificates(store)
    _make_identities(store)
    _make_database_access(store, has_tls=database_has_tls)
    _make_tokens(store)
    store.kept("ledger/ledger_seals_key", _seals_key())
    _copy_provider_keys(store, provider_keys)


# --- TLS


def _make_certificates(store: Store) -> None:
    key, certificate = _authority(store)
    for name in ("postgres", "nats"):
        if _still_good(store.root / name / "server.pem"):
            continue
        own = ec.generate_private_key(ec.SECP256R1())
        made = (
            _certificate(name, own.public_key(), certificate.subject, SERVER_DAYS)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        store.write(f"{name}/server-key.pem", _pem_of(own))
        store.write(f"{name}/server.pem", _pem(made))
    for folder in ("migrate", "ledger", "image", "admin"):
        store.write(f"{folder}/ca.pem", _pem(certificate))


def _authority(store: Store) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if not (store.root / "authority/ca.pem").exists():
        own = ec.generate_private_key(ec.SECP256R1())
        name = "usage-ledger, containers of one machine"
        made = (
            _certificate(name, own.public_key(), _name(name), AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            .add_extension(_KEY_USAGE, critical=True)
            .sign(own, hashes.SHA256())
        )
        store.write("authority/ca-key.pem", _pem_of(own))
        store.write("authority/ca.pem", _pem(made))
    key = serialization.load_pem_private_key(store.read("authority/ca-key.pem").encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "as we wrote it"
    return key, x509.load_pem_x509_certificate(store.read("authority/ca.pem").encode())


_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _still_good(path: Path) -> bool:
    if not path.exists():
        return False
    ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return ends - datetime.now(UTC) > timedelta(days=RENEWED_BEFORE_DAYS)


def _certificate(name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none).decode()


def _seals_key() -> str:
    return _pem_of(ed25519.Ed25519PrivateKey.generate()).strip()


# --- NATS, PostgreSQL, the ledger's own tokens


def _make_identities(store: Store) -> None:
    """A seed for each identity; the server gets the public keys alone."""
    lines = []
    for identity, folder in IDENTITIES.items():
        seed = store.kept(f"{folder}/nats.nk", nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())
        public = nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
        lines.append(f'NATS_{identity}_NKEY: "{public}"\n')
    store.write("nats/identities.conf", "".join(lines))


def _make_database_access(store: Store, *, has_tls: bool) -> None:
    """Passwords of PostgreSQL's superuser and of each role, and the URLs of those that have them."""
    passwords = {
        role: store.kept(f"postgres/password_{role}", secrets.token_urlsafe(32)) for role in (*ROLES, "postgres")
    }
    tls = "?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem" if has_tls else ""

    def url(role: str) -> str:
        return f"postgresql://{role}:{passwords[role]}@postgres:5432/ledger{tls}\n"

    store.write("ledger/ledger_database_url", url("ledger_service"))
    store.write("migrate/ledger_database_url", url("ledger_service"))
    store.write("migrate/ledger_owner_database_url", url("ledger_owner"))
    for role in ("finance", "auditor"):
        store.write(f"admin/{role}-password", f"{passwords[role]}\n")


def _make_tokens(store: Store) -> None:
    admin = store.kept("admin/admin-token", make_token())
    image = store.kept("image/image_ledger_token", make_token())
    known = [
        {"name": "admin", "scopes": list(Scope), "token": admin},
        {"name": "image-service", "scopes": [Scope.LIMITS_CHECK, Scope.EVENTS_WRITE], "token": image},
    ]
    store.write("migrate/ledger_bootstrap_tokens", json.dumps(known))
    hash_key = store.kept("ledger/ledger_token_hash_key", secrets.token_urlsafe(32))
    store.write("migrate/ledger_token_hash_key", f"{hash_key}\n")


def _copy_provider_keys(store: Store, given: Path) -> None:
    """Those that are there now; one that was taken away is forgotten."""
    for path in (store.root / "image").glob(PROVIDER_KEY):
        if not (given / path.name).exists():
            path.unlink()
    for path in given.glob(PROVIDER_KEY):
        store.write(f"image/{path.name}", path.read_text())


def main(arguments: Sequence[str]) -> int:
    """The exit code: 2 for arguments that make no sense, 1 where there is nothing to show."""
    store = Store(SECRETS)
    match list(arguments):
        case []:
            make_all(store, database_has_tls=os.environ.get("POSTGRES_TLS", "on") == "on")
            return 0
        case ["--show", name] if "/" not in name:
            try:
                sys.stdout.write(f"{store.read(f'admin/{name}')}\n")
            except FileNotFoundError:
                there = ", ".join(sorted(path.name for path in (store.root / "admin").glob("[!.]*")))
                sys.stderr.write(f"there is no {name}, but: {there}\n")
                return 1
            return 0
        case _:
            sys.stderr.write("usage: make_secrets.py [--show NAME]\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
