"""Facts of an installation where all is well, for tests that make one of them bad."""

from dataclasses import replace
from typing import Any, Final

from ledger_service.domain.doctor import server_checks
from ledger_service.domain.doctor.facts import (
    Archiver,
    Clock,
    Consumer,
    Database,
    Disk,
    Facts,
    Flow,
    Horizon,
    Machine,
    Mark,
    Migrations,
    Nats,
    Reached,
    Reader,
    Role,
    Seals,
    Server,
    Service,
    SettingsAre,
    Sizes,
    Slot,
    Storage,
    Stream,
    TableHealth,
    Webhooks,
)

SETTINGS: Final = {
    **{one.name: one.values[0] for one in server_checks.SETTINGS},
    "max_connections": "100",
    "archive_mode": "on",
    "wal_level": "replica",
    "max_wal_size": "1024",
}
DATABASE: Final = Database(
    reached=Reached("db:5432/ledger"),
    server=Server(180_004, "18.4", False, "UTF8", "C.UTF-8", 20, 3, 4),
    settings=SETTINGS,
    clock=Clock(0.002, 0.001),
    migrations=Migrations({"0001.sql": "a", "0002.sql": "b"}, {"0001.sql": "a", "0002.sql": "b"}),
    role=Role("ledger_service", (), (), (), 80, may_rewrite=False),
    rights={},
    readers=(Reader("finance", True, (), ()), Reader("auditor", True, (), ())),
    anybody_may_connect=False,
    horizon=Horizon(0.0, None, ()),
    prepared=(),
    slots=(Slot("standby", True, 10**6, "reserved"),),
    archiver=Archiver(12.0, None, ""),
    tables=(TableHealth("event_log", 10**6, 0, 10, True),),
    frozen_age=10**6,
    sizes=Sizes(10**9, 10**8),
    wal_bytes=10**8,
    flow=Flow(3, 0.0, {}, {}),
    mark=Mark(100, is_same_database=True),
    default_plan_exists=True,
    webhooks=Webhooks(0, 0.0),
)
NATS: Final = Nats(
    reached=Reached("nats:4222"),
    version=(2, 15, 1),
    has_jetstream=True,
    clock=Clock(-0.002, 0.001),
    stream=Stream((), 100, 100, 10**6, 10**9, -1, 3),
    consumer=Consumer((), 0, 100, 1, None),
    seals_stream=(),
    storage=Storage(10**6, 10**10),
    sync_interval="always",
)
HEALTHY: Final = Facts(
    machine=Machine((3, 11, 7), {"asyncpg": "0.32.0", "nats-py": "2.16.0", "pyjwt": "2.15.1"}),
    settings=SettingsAre(owner_is_another=True, connections=18, stream_replicas=3, default_plan_id="starter"),
    database=DATABASE,
    nats=NATS,
    seals=Seals(size=100, sealed_seconds_ago=5.0, published={"the stream SEALS": 100}),
    service=Service("http://ledger:8001", asked=True, ready=True, parts={"database": "ok", "nats": "ok"}),
    disks=(Disk("the data", "/srv", 10**12, 2 * 10**12),),
)


def database(**changes: Any) -> Facts:
    """The same with other facts of PostgreSQL; parts that are tuples are given whole, or by their own fields:
    ``role={"may_rewrite": True}``."""
    return replace(HEALTHY, database=replace(DATABASE, **_whole(DATABASE, changes)))


def nats(**changes: Any) -> Facts:
    return replace(HEALTHY, nats=replace(NATS, **_whole(NATS, changes)))


def facts(**changes: Any) -> Facts:
    return replace(HEALTHY, **_whole(HEALTHY, changes))


def postgres_setting(name: str, value: str) -> Facts:
    return database(settings={**SETTINGS, name: value})


def _whole(of: Any, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(of, name)._replace(**value)
        if isinstance(value, dict) and hasattr(getattr(of, name), "_replace")
        else value
        for name, value in changes.items()
    }
