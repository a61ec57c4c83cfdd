"""What there is to know about an installation. Each fact that may be out of reach is ``T | Unknown``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


@dataclass(frozen=True)
class Unknown:
    """Stands for a fact that could not be learnt."""

    why: str


class Trouble(StrEnum):
    """Why a server cannot be worked with."""

    REFUSED = "nobody listens there"
    SILENT = "no answer in time"
    NO_ADDRESS = "its name has no address"
    WRONG_PASSWORD = "it does not let us in"  # noqa: S105  words for a person
    NO_DATABASE = "the database does not exist"
    FULL = "it takes no more connections"
    TLS = "its certificate is not believed"
    STARTING = "it is starting, stopping, or recovering"
    OTHER = "it cannot be used"


class Reached(NamedTuple):
    """A server at ``place`` (never with a password); ``trouble`` None: it answers. ``detail``: in its own words."""

    place: str
    trouble: Trouble | None = None
    detail: str = ""


class Clock(NamedTuple):
    """How far another clock is ahead of this machine's, and how sure that is (half of the question's round trip)."""

    ahead_seconds: float
    within_seconds: float


class Difference(NamedTuple):
    """A setting of a stream or consumer that is not as it must be."""

    name: str
    found: str
    wanted: str


# --- this machine and its settings


class SettingsAre(NamedTuple):
    """The LEDGER_* settings, as far as checks look at them. ``problems``: what is wrong with them; then nothing else
    is known. ``connections``: what one ledger process opens to PostgreSQL at most."""

    problems: tuple[str, ...] = ()
    unknown_names: tuple[str, ...] = ()
    requires_tokens: bool = True
    database_is_verified: bool = True
    nats_is_private: bool = True
    owner_is_another: bool | None = None
    connections: int = 0
    stream_replicas: int = 1
    default_plan_id: str | None = None
    #: By setting: what is wrong with the file or folder that it names.
    files: Mapping[str, str] = {}

    @property
    def readable(self) -> "Unknown | SettingsAre":
        return Unknown("the settings cannot be read") if self.problems else self


class Machine(NamedTuple):
    """``packages``: installed versions of those that have a floor, by name; empty text: not installed."""

    python: tuple[int, int, int]
    packages: Mapping[str, str]


class Disk(NamedTuple):
    """The file system of a folder on this machine, and what is kept there."""

    what: str
    folder: str
    free_bytes: int
    total_bytes: int


# --- PostgreSQL


class Role(NamedTuple):
    """Who we are there. ``powers``: attributes such as superuser; ``owns``: tables; ``may_rewrite``: whether it could
    change what is in the log."""

    name: str
    powers: tuple[str, ...]
    member_of: tuple[str, ...]
    owns: tuple[str, ...]
    connections_max: int
    may_rewrite: bool


class Reader(NamedTuple):
    """finance or auditor: whether it has what it is for, and what it should not have."""

    name: str
    reads: bool
    reads_too_much: tuple[str, ...]
    writes: tuple[str, ...]


class Server(NamedTuple):
    """``version``: as server_version_num."""

    version: int
    version_text: str
    in_recovery: bool
    encoding: str
    collation: str
    in_use: int
    reserved: int
    ledger_connections: int


class Migrations(NamedTuple):
    """What is applied and what this version has: digests by name. ``compatible``: of a newer version, and this one goes
    on beside them."""

    applied: Mapping[str, str]
    known: Mapping[str, str]
    compatible: frozenset[str] = frozenset()


class Horizon(NamedTuple):
    """``waiting_seconds``: for how long the oldest row that no reader of the log may see yet has been there.
    ``oldest``: sessions that hold it, the oldest first, as far as this role may know; ``oldest_seconds``: its age.
    ``unborn``: the log's highest transaction that the server has not begun; None: it has begun them all."""

    waiting_seconds: float
    oldest_seconds: float | None
    oldest: tuple[str, ...]
    unborn: int | None = None


class Prepared(NamedTuple):
    name: str
    seconds: float


class Slot(NamedTuple):
    """``wal_status``: as pg_replication_slots."""

    name: str
    active: bool
    retained_bytes: int
    wal_status: str


class Archiver(NamedTuple):
    """Seconds since then; None: never."""

    archived_seconds_ago: float | None
    failed_seconds_ago: float | None
    failed_file: str


class TableHealth(NamedTuple):
    name: str
    rows: int
    dead: int
    changed_since_analyze: int
    analyzed: bool


class Sizes(NamedTuple):
    database_bytes: int
    log_bytes: int


class Flow(NamedTuple):
    """Of what goes through. ``holes``: by source, sequence numbers that never arrived."""

    holds_open: int
    holds_overdue_seconds: float
    letters_by_code: Mapping[str, int]
    holes: Mapping[str, int]


class Mark(NamedTuple):
    """How far the stream certainly is in this database, and whether this very database wrote that."""

    committed_through: int
    is_same_database: bool


class Webhooks(NamedTuple):
    """``disabled`` endpoints; for how long the oldest delivery to one that is neither that nor paused waits."""

    disabled: int
    lag_seconds: float


@dataclass(frozen=True)
class Database:
    """All that is known of PostgreSQL. ``rights``: what the role lacks, by table."""

    reached: Reached
    server: Server | Unknown
    settings: Mapping[str, str] | Unknown
    clock: Clock | Unknown
    migrations: Migrations | Unknown
    role: Role | Unknown
    rights: Mapping[str, tuple[str, ...]] | Unknown
    readers: tuple[Reader, ...] | Unknown
    anybody_may_connect: bool | Unknown
    horizon: Horizon | Unknown
    prepared: tuple[Prepared, ...] | Unknown
    slots: tuple[Slot, ...] | Unknown
    archiver: Archiver | Unknown
    tables: tuple[TableHealth, ...] | Unknown
    frozen_age: int | Unknown
    sizes: Sizes | Unknown
    wal_bytes: int | Unknown
    flow: Flow | Unknown
    mark: Mark | Unknown | None
    default_plan_exists: bool | Unknown
    webhooks: Webhooks | Unknown


# --- NATS


class Stream(NamedTuple):
    """Counts and bytes; maxima are -1 where there is none."""

    differences: tuple[Difference, ...]
    messages: int
    last_sequence: int
    bytes: int
    bytes_max: int
    messages_max: int
    replicas: int


class Consumer(NamedTuple):
    """``oldest_seconds``: for how long the oldest message that is not acknowledged has been in the stream; None: all
    are. ``waiting``: requests for messages that are open, so that some ledger process lives."""

    differences: tuple[Difference, ...]
    behind: int
    acknowledged: int
    waiting: int
    oldest_seconds: float | None


class Storage(NamedTuple):
    """JetStream's, of our account; the maximum is -1 where there is none."""

    used_bytes: int
    bytes_max: int


@dataclass(frozen=True)
class Nats:
    reached: Reached
    version: tuple[int, int, int] | Unknown
    has_jetstream: bool | Unknown
    clock: Clock | Unknown
    stream: Stream | Unknown | None
    consumer: Consumer | Unknown | None
    seals_stream: tuple[Difference, ...] | Unknown | None
    storage: Storage | Unknown
    sync_interval: str | Unknown


# --- seals, and the service itself


class Seals(NamedTuple):
    """``trouble``: why the chain or what was published cannot be believed. ``size``: rows under the newest checkpoint,
    whose signature was verified; None: nothing is sealed yet. ``published``: by place, the size there;
    ``unpublished_seconds``: by place, for how long the oldest checkpoint that is not there has been signed."""

    trouble: str = ""
    size: int | None = None
    sealed_seconds_ago: float | None = None
    unsealed_events: int = 0
    unsealed_seconds: float = 0.0
    published: Mapping[str, int] = {}
    unpublished_seconds: Mapping[str, float] = {}


class Service(NamedTuple):
    """What a ledger process says of itself. ``asked``: its address was given, so that somebody should be there."""

    url: str
    asked: bool
    trouble: str = ""
    ready: bool = False
    parts: Mapping[str, str] = {}
    gauges: Mapping[str, float] = {}


@dataclass(frozen=True)
class Facts:
    """``seals`` None: this ledger does not seal."""

    machine: Machine
    settings: SettingsAre
    database: Database
    nats: Nats
    seals: Seals | Unknown | None
    service: Service | Unknown
    disks: tuple[Disk, ...] | Unknown = field(default=())
