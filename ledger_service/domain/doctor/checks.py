"""All checks of `ledger doctor`, in the order in which people look: what others depend on comes first."""

from typing import Final

from ledger_service.domain.doctor import flow_checks as flow
from ledger_service.domain.doctor import machine_checks as machine
from ledger_service.domain.doctor import nats_checks as nats
from ledger_service.domain.doctor import role_checks as roles
from ledger_service.domain.doctor import server_checks as server
from ledger_service.domain.doctor.findings import Check

_GUIDES: Final = "deploy/guides"
_RUNBOOKS: Final = "deploy/runbooks"
_DOCTOR: Final = f"{_GUIDES}/doctor.md"
_POSTGRES: Final = f"{_GUIDES}/postgres.md"
_NATS: Final = f"{_GUIDES}/nats.md"
_SEALS: Final = f"{_GUIDES}/seals.md"
_ACCESS: Final = f"{_GUIDES}/access.md"
_BACKUP: Final = f"{_GUIDES}/backup.md"
_STORAGE: Final = f"{_GUIDES}/storage.md"

CHECKS: Final = (
    Check("machine.python", machine.python, _DOCTOR),
    Check("machine.packages", machine.packages, _DOCTOR),
    Check("settings.readable", machine.settings, _DOCTOR),
    Check("settings.names", machine.names, _DOCTOR),
    Check("settings.files", machine.files, _DOCTOR),
    Check("settings.tokens", machine.tokens, _ACCESS),
    Check("settings.privacy", machine.privacy, _POSTGRES),
    Check("settings.owner", machine.owner, _POSTGRES),
    Check("postgres.reachable", server.reachable, f"{_RUNBOOKS}/LimitChecksFail.md"),
    Check("postgres.version", server.version, _DOCTOR),
    Check("postgres.primary", server.is_primary, _BACKUP),
    Check("postgres.text", server.text, _DOCTOR),
    *(Check(f"postgres.{one.check}", server.setting(one), _DOCTOR) for one in server.SETTINGS),
    Check("postgres.connections", server.connections, f"{_RUNBOOKS}/LimitChecksFail.md"),
    Check("postgres.archiving", server.archiving, _BACKUP),
    Check("postgres.prepared", server.prepared, f"{_RUNBOOKS}/TransactionHorizonStuck.md"),
    Check("postgres.slots", server.slots, _DOCTOR),
    Check("postgres.vacuum", server.vacuum, f"{_RUNBOOKS}/LimitChecksSlow.md"),
    Check("postgres.wraparound", server.wraparound, _DOCTOR),
    Check("postgres.volume", server.volume, _STORAGE),
    Check("postgres.wal", server.wal, _BACKUP),
    Check("postgres.horizon", flow.horizon, f"{_RUNBOOKS}/TransactionHorizonStuck.md"),
    Check("schema.version", roles.schema, f"{_GUIDES}/upgrades.md"),
    Check("roles.rights", roles.rights, _POSTGRES),
    Check("roles.append_only", roles.append_only, _POSTGRES),
    Check("roles.powers", roles.powers, _POSTGRES),
    Check("roles.readers", roles.readers, _POSTGRES),
    Check("roles.strangers", roles.strangers, _POSTGRES),
    Check("settings.default_plan", machine.default_plan, _DOCTOR),
    Check("nats.reachable", nats.reachable, f"{_RUNBOOKS}/LedgerWithoutNats.md"),
    Check("nats.version", nats.version, _NATS),
    Check("nats.jetstream", nats.jetstream, _NATS),
    Check("nats.stream", nats.stream, _NATS),
    Check("nats.replicas", nats.replicas, _NATS),
    Check("nats.room", nats.room, _STORAGE),
    Check("nats.consumer", nats.consumer, _NATS),
    Check("nats.seals_stream", nats.seals_stream, _SEALS),
    Check("nats.syncing", nats.syncing, _DOCTOR),
    Check("clock.postgres", flow.clock_of("PostgreSQL's clock", lambda facts: facts.database.clock), _DOCTOR),
    Check("clock.nats", flow.clock_of("NATS' clock", lambda facts: facts.nats.clock), _DOCTOR),
    Check("ledger.running", machine.running, f"{_RUNBOOKS}/ServiceDown.md"),
    Check("ledger.ready", machine.ready, f"{_RUNBOOKS}/ServiceDown.md"),
    Check("flow.ingest", flow.ingest, f"{_RUNBOOKS}/IngestBehind.md"),
    Check("flow.history", flow.same_history, _BACKUP),
    Check("flow.dead_letters", flow.letters, f"{_RUNBOOKS}/DeadLettersOpen.md"),
    Check("flow.holes", flow.holes, f"{_RUNBOOKS}/EventsMissing.md"),
    Check("flow.holds", flow.holds, f"{_RUNBOOKS}/HoldsOverdue.md"),
    Check("webhooks.enabled", flow.endpoints, f"{_RUNBOOKS}/WebhooksDisabled.md"),
    Check("webhooks.lag", flow.deliveries, f"{_RUNBOOKS}/WebhooksBehind.md"),
    Check("seals.chain", flow.sealing, f"{_RUNBOOKS}/SealsDiverged.md"),
    Check("seals.lag", flow.seal_lag, f"{_RUNBOOKS}/SealsBehind.md"),
    Check("disk.room", machine.disk, _STORAGE),
)
