"""The price catalogue: its versions, and the copy of it that each process keeps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.prices import Price, PriceStored
from ledger_service.domain.ledger_events import PRICE_CHANGED
from ledger_service.domain.periods import END_OF_TIME
from ledger_service.domain.price_versions import Version, in_force_until
from ledger_service.domain.rating import Catalogue, Key, PriceVersion
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
CHANGES_MAX: Final = 1000


class Written(NamedTuple):
    """A new form of a version, and its event."""

    key: Key
    version: Version
    event_id: UUID
    event: bytes


@dataclass(frozen=True, slots=True)
class PriceFilter:
    """None selects all. ``at``: those in force at that moment."""

    provider: str | None = None
    operation: str | None = None
    at: datetime | None = None


#: Where a page of the catalogue ended: provider, operation, model, valid_from.
Place = tuple[str, str, str, datetime]


async def lock_catalogue(connection: "Connection") -> None:
    """Until the transaction ends, nobody else changes a price."""
    await connection.execute(SQL["lock"])


async def read_versions(connection: "Connection", keys: Collection[Key]) -> dict[Key, list[Version]]:
    """All versions of these prices, oldest first; nothing of a price that there is not."""
    found: dict[Key, list[Version]] = {}
    if not keys:
        return found
    for row in await connection.fetch(SQL["versions"], *zip(*sorted(set(keys)), strict=True)):
        version = Version(_price(row), row["version"], row["shipped"], row["recorded_at"])
        found.setdefault(_key(row), []).append(version)
    return found


async def write_versions(connection: "Connection", written: Sequence[Written]) -> None:
    """Writes versions and their events, of which no two may be of one version. The caller holds the lock."""
    ordered = sorted(written, key=lambda one: (one.key, one.version.price.valid_from))
    rows = [
        (
            *key, version.price.valid_from, version.price.valid_until or END_OF_TIME, version.version, version.shipped,
            version.price.model_dump_json(), version.recorded_at, event_id, event.decode(),
        )
        for key, version, event_id, event in ordered
    ]  # fmt: skip
    await connection.execute(SQL["write"], PRICE_CHANGED, *zip(*rows, strict=True))


async def read_shipped_digest(connection: "Connection") -> str | None:
    """Which shipped file the prices last followed; None = none yet."""
    digest: str | None = await connection.fetchval(SQL["shipped_digest"])
    return digest


async def keep_shipped_digest(connection: "Connection", digest: str) -> None:
    await connection.execute(SQL["keep_shipped_digest"], digest)


async def find_price(connection: "Connection", key: Key) -> list[PriceStored]:
    """All versions of one price, oldest first."""
    versions = (await read_versions(connection, [key])).get(key, [])
    return [stored(key, version, [other.price for other in versions]) for version in versions]


async def find_changes(connection: "Connection", key: Key) -> list[PriceStored]:
    """Every form that the versions of a price ever had, newest first, at most CHANGES_MAX."""
    rows = await connection.fetch(SQL["changes"], PRICE_CHANGED, *key, CHANGES_MAX)
    return [PriceStored.model_validate_json(row["body"]) for row in rows]


async def list_prices(
    connection: "Connection", chosen: PriceFilter, after: Place | None, rows_max: int
) -> list[PriceStored]:
    """A page of the catalogue, in the order of provider, operation, model and valid_from."""
    place = after or (None, None, None, None)
    rows = await connection.fetch(SQL["page"], chosen.provider, chosen.operation, chosen.at, *place, rows_max)
    found = []
    for row in rows:
        version = Version(_price(row), row["version"], row["shipped"], row["recorded_at"])
        until = row["in_force_until"]
        found.append(_stored(_key(row), version, None if until >= END_OF_TIME else until))
    return found


def stored(key: Key, version: Version, others: Collection[Price]) -> PriceStored:
    """A version as people see it, among all versions of its price."""
    return _stored(key, version, in_force_until(version.price, others))


def _stored(key: Key, version: Version, until: datetime | None) -> PriceStored:
    provider, operation, model = key
    # Both parts are valid already; a second reading would want the money as strings again.
    return PriceStored.model_construct(
        provider=provider,
        operation=operation,
        model=model,
        **{name: getattr(version.price, name) for name in Price.model_fields},
        version=version.version,
        shipped=version.shipped,
        recorded_at=version.recorded_at,
        in_force_until=until,
    )


def _price(row: "asyncpg.Record") -> Price:
    return Price.model_validate_json(row["body"])


def _key(row: "asyncpg.Record") -> Key:
    return row["provider"], row["operation"], row["model"]


async def read_catalogue(connection: "Connection") -> Catalogue:
    """All prices."""
    return Catalogue().with_versions(await _changed_since(connection, 0))


async def _changed_since(connection: "Connection", catalogue_version: int) -> list[tuple[Key, PriceVersion]]:
    rows = await connection.fetch(SQL["changed_since"], catalogue_version)
    return [(_key(row), PriceVersion(_price(row), row["version"])) for row in rows]


class CatalogueCache:
    """The catalogue as of the last look: each look is one small statement, and reads only what changed since."""

    def __init__(self) -> None:
        self._version = 0
        self._catalogue = Catalogue()

    async def get(self, connection: "Connection") -> Catalogue:
        """The catalogue as the connection sees it now."""
        known, catalogue = self._version, self._catalogue
        version: int = await connection.fetchval(SQL["catalogue_version"])
        if version == known:
            return catalogue
        if version < known:  # another database, or an older copy of it
            known, catalogue = 0, Catalogue()
        # Another change may commit between the two statements: then it is read now, and once more at the next look.
        catalogue = catalogue.with_versions(await _changed_since(connection, known))
        # Both belong together, and several may be here at once: what is kept is never less than its version says.
        self._version, self._catalogue = version, catalogue
        return catalogue

    @property
    def version(self) -> int:
        """Grows with every change of a price."""
        return self._version
