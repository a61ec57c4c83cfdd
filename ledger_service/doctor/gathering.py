"""All facts of an installation, gathered side by side, each within its time. What cannot be had is said to be so:
nothing here raises for a server that is away, refuses us, or is not as it should be."""

import asyncio
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from contracts.settings_reading import WrongSettingsError, read_settings, unknown_variables
from ledger_service.config import Settings
from ledger_service.database_url import is_safe
from ledger_service.doctor import database, nats
from ledger_service.doctor.seals import head_in, seals_of
from ledger_service.doctor.service import ask_service
from ledger_service.doctor.turns import Turns
from ledger_service.domain.doctor.facts import Disk, Facts, Machine, SettingsAre, Unknown
from ledger_service.domain.doctor.machine_checks import PACKAGES_MIN
from ledger_service.seal_keys import SealKeyError, find_signing_key, trusted_keys
from ledger_service.sealing import SealChain
from ledger_service.store import connections

#: Of everything; single questions have less.
SECONDS_MAX: Final = 30.0
_DISK_SECONDS_MAX: Final = 3.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Asked:
    """What the command was told. ``ledger_url`` None: where the settings say that this machine's ledger listens."""

    ledger_url: str | None = None
    nats_monitoring_url: str | None = None
    folders: tuple[Path, ...] = ()


async def gather(asked: Asked) -> Facts:
    """Within SECONDS_MAX."""
    machine = Machine(sys.version_info[:3], {name: _version(name) for name in PACKAGES_MIN})
    try:
        settings = read_settings(Settings)
    except WrongSettingsError as error:
        return _without_settings(machine, error.problems)
    chain, files = _chain(settings), _files(settings)
    wanted = chain if isinstance(chain, SealChain) else None
    turns = Turns()
    turns.published |= await head_in(settings.seals_file, wanted)
    in_database, on_nats, service = await asyncio.gather(
        database.gather(settings, wanted, SECONDS_MAX, turns),
        nats.gather(settings, wanted, asked.nats_monitoring_url, SECONDS_MAX, turns),
        ask_service(asked.ledger_url, f"http://{settings.host}:{settings.port}"),
    )
    found, sealed, folder = in_database
    return Facts(
        machine=machine,
        settings=_settings(settings, files),
        database=found,
        nats=on_nats,
        seals=seals_of(chain, sealed, turns.published),
        service=service,
        disks=await _disks([*(("--disk", one) for one in asked.folders), *_folders(settings, folder)]),
    )


def _without_settings(machine: Machine, problems: tuple[str, ...]) -> Facts:
    nothing = Unknown("the settings cannot be read")
    return Facts(
        machine=machine,
        settings=SettingsAre(problems, tuple(unknown_variables(Settings))),
        database=database.nothing_known(nothing),
        nats=nats.nothing_known(nothing),
        seals=nothing,
        service=nothing,
        disks=nothing,
    )


def _settings(settings: Settings, files: Mapping[str, str]) -> SettingsAre:
    owner = settings.owner_database_url
    return SettingsAre(
        unknown_names=tuple(unknown_variables(Settings)),
        requires_tokens=settings.auth == "required",
        database_is_verified=is_safe(settings.database_url),
        nats_is_private=all(one.startswith("tls://") or is_safe(one) for one in settings.nats_url.split(",")),
        owner_is_another=None if owner is None else database.role_of(owner) != database.role_of(settings.database_url),
        connections=settings.read_connections_max
        + settings.check_writers
        + settings.ingest_writers
        + connections.BESIDE_SETTINGS,
        stream_replicas=settings.stream_replicas,
        default_plan_id=settings.default_plan_id,
        files=files,
    )


def _chain(settings: Settings) -> SealChain | Unknown | None:
    """None: this ledger does not seal."""
    try:
        key = find_signing_key(settings)
        if key is None:
            if settings.seals_key_file is None:
                return None
            return Unknown(f"there is no key {settings.seals_key_file} yet; the ledger makes it when it starts")
        return SealChain(key, trusted_keys(settings))
    except SealKeyError as error:
        return Unknown(str(error))


def _files(settings: Settings) -> Mapping[str, str]:
    """What is wrong with the files and folders that settings name."""
    wrong = {}
    for name, path in (
        ("LEDGER_DATABASE_CA_FILE", settings.database_ca_file),
        ("LEDGER_NATS_CA_FILE", settings.nats_ca_file),
        ("LEDGER_NATS_NKEY_FILE", settings.nats_nkey_file),
    ):
        if path is not None and (why := _unreadable(path)):
            wrong[name] = why
    try:
        find_signing_key(settings)
        trusted_keys(settings)
    except SealKeyError as error:
        wrong["LEDGER_SEALS_KEY_FILE"] = str(error)
    archives = settings.archive_folder
    if archives is not None and not (archives.is_dir() and os.access(archives, os.W_OK)):
        wrong["LEDGER_ARCHIVE_FOLDER"] = f"{archives} is no folder that can be written to"
    return wrong


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"


def _folders(settings: Settings, postgres: Path | None) -> Iterable[tuple[str, Path]]:
    if postgres is not None:
        yield "PostgreSQL's data", postgres
    if settings.seals_file is not None:
        yield "the file of checkpoints", settings.seals_file.parent
    if settings.archive_folder is not None:
        yield "the folder of archives", settings.archive_folder


async def _disks(folders: Iterable[tuple[str, Path]]) -> tuple[Disk, ...]:
    """Of those that are on this machine and answer: a network's file system may hang."""
    found = await asyncio.gather(*(_apart(partial(_disk, what, folder)) for what, folder in folders))
    return tuple(one for one in found if one is not None)


def _disk(what: str, folder: Path) -> Disk | None:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return Disk(what, str(folder), status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)


async def _apart(work: Callable[[], Answer | None]) -> Answer | None:
    """In a thread that nobody waits for at the end; None where it takes too long."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Answer | None] = loop.create_future()

    def answer(found: Answer | None) -> None:
        if not done.done():
            done.set_result(found)

    threading.Thread(target=lambda: loop.call_soon_threadsafe(answer, work()), daemon=True).start()
    try:
        async with asyncio.timeout(_DISK_SECONDS_MAX):
            return await done
    except TimeoutError:
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
