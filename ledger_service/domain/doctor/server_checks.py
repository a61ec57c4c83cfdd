"""Of PostgreSQL: whether it is there, its version and settings, and whether it has room for us."""

from collections.abc import Callable
from typing import Final, NamedTuple

from ledger_service.domain.doctor.amounts import duration, size, some
from ledger_service.domain.doctor.facts import Facts, Trouble
from ledger_service.domain.doctor.findings import (
    Status,
    UnknownFactError,
    Verdict,
    failure,
    known,
    ok,
    skipped,
    unknown,
    warning,
)

VERSION_MIN: Final = 160_000
#: Archives that are late are those that the last base backup cannot be continued with.
ARCHIVE_SECONDS_MAX: Final = 3_600
IN_USE_SHARE_MAX: Final = 0.8
PREPARED_SECONDS_MAX: Final = 300
RETAINED_BYTES_WARNING: Final = 2 * 10**9
RETAINED_BYTES_FAILURE: Final = 20 * 10**9
DEAD_ROWS_MIN: Final = 50_000
DEAD_SHARE_MAX: Final = 0.4
UNANALYZED_ROWS_MIN: Final = 50_000
#: PostgreSQL begins to freeze at 200 million by default, and stops taking writes at some two billion.
FROZEN_AGE_WARNING: Final = 500_000_000
FROZEN_AGE_FAILURE: Final = 1_500_000_000
WAL_TIMES_MAX: Final = 2

_ADVICE: Final = {
    Trouble.REFUSED: "start PostgreSQL, or correct host and port in LEDGER_DATABASE_URL",
    Trouble.SILENT: "look for a firewall, a wrong host, or a server that hangs; then LEDGER_DATABASE_URL",
    Trouble.NO_ADDRESS: "correct the host in LEDGER_DATABASE_URL, or the machine's name resolution",
    Trouble.WRONG_PASSWORD: "correct role and password in LEDGER_DATABASE_URL, or set it in psql: \\password ROLE; see "
    "pg_hba.conf where both are right",
    Trouble.NO_DATABASE: "correct the database's name in LEDGER_DATABASE_URL, or make it, and run `ledger migrate`",
    Trouble.FULL: "find out who has them (pg_stat_activity), or raise max_connections or the role's limit",
    Trouble.TLS: "give the authority of the server's certificate in LEDGER_DATABASE_CA_FILE",
    Trouble.STARTING: "wait until it is up; its log says how far it is",
    Trouble.OTHER: "read the server's log, and check LEDGER_DATABASE_URL",
}


class Wanted(NamedTuple):
    """A setting of the server, and its check. ``otherwise``: how bad another value is; ``why``: what then happens, and
    what to do."""

    check: str
    name: str
    values: tuple[str, ...]
    otherwise: Status
    why: str


SETTINGS: Final = (
    Wanted(
        "fsync", "fsync", ("on",), Status.FAILURE,
        "a crash of the machine can destroy the whole database: set fsync = on, and restart",
    ),
    Wanted(
        "synchronous_commit", "synchronous_commit", ("on", "remote_apply"), Status.FAILURE,
        "events are confirmed before they are on the disk, and producers forget them: set synchronous_commit = on, "
        "also where `alter role` or `alter database` says otherwise",
    ),
    Wanted(
        "full_page_writes", "full_page_writes", ("on",), Status.FAILURE,
        "a page that a crash tore cannot be repaired: set full_page_writes = on, and reload",
    ),
    Wanted(
        "checksums", "data_checksums", ("on",), Status.WARNING,
        "what a disk changes is not noticed: stop the server, and run pg_checksums --enable",
    ),
    Wanted(
        "isolation", "default_transaction_isolation", ("read committed",), Status.FAILURE,
        "checks lock accounts and then read: under another isolation they read what was before the lock; set "
        "default_transaction_isolation = 'read committed'",
    ),
    Wanted(
        "read_only", "default_transaction_read_only", ("off",), Status.FAILURE,
        "the ledger cannot write: set default_transaction_read_only = off for its role",
    ),
    Wanted(
        "time_zone", "TimeZone", ("UTC", "Etc/UTC", "GMT"), Status.WARNING,
        "days in SQL of your own begin elsewhere than in the ledger, whose periods are UTC: alter role … set TimeZone "
        "= 'UTC'",
    ),
    Wanted(
        "autovacuum", "autovacuum", ("on",), Status.FAILURE,
        "counters are updated with each check, and their tables only grow: set autovacuum = on, and reload",
    ),
    Wanted(
        "track_counts", "track_counts", ("on",), Status.FAILURE,
        "autovacuum sees nothing to do: set track_counts = on, and reload",
    ),
    Wanted(
        "logged_values", "log_parameter_max_length_on_error", ("0",), Status.WARNING,
        "what was in a failed statement, users' ids for one, goes to the server's log: set it to 0",
    ),
)  # fmt: skip


def setting(wanted: Wanted) -> Callable[[Facts], Verdict]:
    """The check of one setting."""

    def judge(facts: Facts) -> Verdict:
        found = known(facts.database.settings).get(wanted.name)
        if found is None:
            return unknown(f"the role may not read {wanted.name}", "run it with a role that may: pg_read_all_settings")
        expected = f"{wanted.name} = {' or '.join(wanted.values)}"
        if found in wanted.values:
            return ok(f"{wanted.name} = {found}")
        return Verdict(wanted.otherwise, f"{wanted.name} = {found}", expected, wanted.why)

    return judge


def reachable(facts: Facts) -> Verdict:
    reached = facts.database.reached
    if reached.trouble is None:
        return ok(f"answers at {reached.place}")
    found = f"{reached.place}: {reached.trouble.value}" + (f" ({reached.detail})" if reached.detail else "")
    return failure(found, "PostgreSQL answers, and lets the ledger in", _ADVICE[reached.trouble])


def version(facts: Facts) -> Verdict:
    server = known(facts.database.server)
    if server.version < VERSION_MIN:
        return failure(f"PostgreSQL {server.version_text}", "16 or newer", "upgrade the server with pg_upgrade")
    return ok(f"PostgreSQL {server.version_text}")


def is_primary(facts: Facts) -> Verdict:
    if known(facts.database.server).in_recovery:
        return failure(
            "the server follows another one, and takes no writes",
            "a server that takes writes",
            "point LEDGER_DATABASE_URL at the primary, or promote this one: select pg_promote()",
        )
    return ok("takes writes")


def text(facts: Facts) -> Verdict:
    server = known(facts.database.server)
    found = f"{server.encoding}, text in the order of {server.collation}"
    if server.encoding != "UTF8":
        return failure(found, "UTF8", "make the database anew with --encoding=UTF8 --template=template0, and restore")
    if server.collation not in ("C", "POSIX", "C.UTF-8", "C.UTF8"):
        return warning(
            found,
            "text in the order of its bytes (C.UTF-8)",
            "an upgrade of the system's locales can break indexes over text: make the database anew with "
            "--locale-provider=builtin --locale=C.UTF-8, or reindex after each such upgrade",
        )
    return ok(found)


def connections(facts: Facts) -> Verdict:
    server, role = known(facts.database.server), known(facts.database.role)
    maximum = int(_setting(facts, "max_connections"))
    usable = maximum - server.reserved
    limit = min(usable, role.connections_max) if role.connections_max >= 0 else usable
    need = facts.settings.connections
    found = f"{server.in_use} of {usable} in use; a ledger process opens up to {need}, its role may have {limit}"
    if need > limit:
        return failure(
            found,
            f"room for {need}",
            "raise max_connections or `alter role … connection limit`, or lower LEDGER_READ_CONNECTIONS_MAX and the "
            "numbers of writers",
        )
    if server.in_use > usable * IN_USE_SHARE_MAX:
        return warning(
            found,
            f"less than {IN_USE_SHARE_MAX:.0%} in use",
            "raise max_connections, or run fewer processes; pg_stat_activity says whose they are",
        )
    return ok(found)


def archiving(facts: Facts) -> Verdict:
    archiver = known(facts.database.archiver)
    if _setting(facts, "archive_mode") == "off" or _setting(facts, "wal_level") == "minimal":
        return warning(
            "WAL is not archived",
            "archive_mode = on, and wal_level = replica",
            "a lost disk costs everything since the last backup: archive the WAL as the guide says, or accept it with "
            "--accept postgres.archiving",
        )
    failed, archived = archiver.failed_seconds_ago, archiver.archived_seconds_ago
    if failed is not None and (archived is None or failed < archived):
        return failure(
            f"archiving {archiver.failed_file} failed {duration(failed)} ago, and nothing was archived since",
            "archive_command succeeds",
            "read the server's log for what archive_command said; until then WAL fills the disk",
        )
    if archived is None:
        return warning("nothing was archived yet", "WAL is archived", "`select pg_switch_wal()`, then look again")
    if archived > ARCHIVE_SECONDS_MAX:
        return warning(
            f"the last WAL file was archived {duration(archived)} ago",
            f"less than {duration(ARCHIVE_SECONDS_MAX)} ago",
            "set archive_timeout = 60, so that what a lost disk costs is bounded",
        )
    return ok(f"the last WAL file was archived {duration(archived)} ago")


def prepared(facts: Facts) -> Verdict:
    old = [one for one in known(facts.database.prepared) if one.seconds > PREPARED_SECONDS_MAX]
    if not old:
        return ok("no transaction is left prepared")
    names = some([f"{one.name} ({duration(one.seconds)})" for one in old])
    return failure(
        f"prepared and not ended: {names}",
        "none; the ledger makes none",
        "they hold their locks, and everything after them back: `commit prepared` or `rollback prepared`, each by name",
    )


def slots(facts: Facts) -> Verdict:
    found = known(facts.database.slots)
    lost = [one.name for one in found if one.wal_status in ("lost", "unreserved")]
    if lost:
        return warning(
            f"replication slots whose WAL is going, or gone: {some(lost)}",
            "followers that keep up",
            "make those followers anew, or drop their slots: select pg_drop_replication_slot('…')",
        )
    most = max(found, key=lambda one: one.retained_bytes, default=None)
    if most is None:
        return ok("no replication slots")
    used = "in use" if most.active else "nobody uses it"
    said = f"the slot {most.name} ({used}) keeps {size(most.retained_bytes)} of WAL"
    advice = "drop what nobody uses: select pg_drop_replication_slot('…'); bound the rest by max_slot_wal_keep_size"
    if most.retained_bytes > RETAINED_BYTES_FAILURE:
        return failure(said, f"less than {size(RETAINED_BYTES_WARNING)}", advice)
    if most.retained_bytes > RETAINED_BYTES_WARNING or not most.active:
        return warning(said, f"in use, and less than {size(RETAINED_BYTES_WARNING)}", advice)
    return ok(said)


def vacuum(facts: Facts) -> Verdict:
    tables = known(facts.database.tables)
    bloated = [
        f"{one.name} ({one.dead:,} dead beside {one.rows:,})"
        for one in tables
        if one.dead > DEAD_ROWS_MIN and one.dead > DEAD_SHARE_MAX * (one.rows + one.dead)
    ]
    blind = [
        one.name for one in tables if not one.analyzed and one.rows + one.changed_since_analyze > UNANALYZED_ROWS_MIN
    ]
    if bloated:
        return warning(
            f"rows that are dead and not cleared away: {some(bloated)}",
            f"at most {DEAD_SHARE_MAX:.0%} of a table",
            "vacuum (analyze) them; where it clears nothing, an old transaction holds them: see postgres.horizon",
        )
    if blind:
        return warning(
            f"the planner knows nothing of {some(blind)}", "statistics of every large table", "analyze them, once"
        )
    return ok(f"{len(tables)} tables are looked after")


def wraparound(facts: Facts) -> Verdict:
    age = known(facts.database.frozen_age)
    found = f"the oldest row that is not frozen is {age:,} transactions old"
    advice = (
        "`vacuum (freeze)` as the owner, table by table; what holds it back is in postgres.horizon and postgres.slots"
    )
    if age > FROZEN_AGE_FAILURE:
        return failure(found, f"less than {FROZEN_AGE_WARNING:,}; at two billion the server takes no writes", advice)
    if age > FROZEN_AGE_WARNING:
        return warning(found, f"less than {FROZEN_AGE_WARNING:,}", advice)
    return ok(found)


def volume(facts: Facts) -> Verdict:
    sizes = known(facts.database.sizes)
    return ok(f"{size(sizes.database_bytes)}, of which {size(sizes.log_bytes)} are the log")


def wal(facts: Facts) -> Verdict:
    found = facts.database.wal_bytes
    if not isinstance(found, int):
        return (
            skipped(f"{found.why}; a role with pg_monitor may")
            if facts.database.reached.trouble is None
            else (unknown(found.why))
        )
    maximum = int(_setting(facts, "max_wal_size")) * 1024 * 1024
    said = f"{size(found)} of WAL, max_wal_size is {size(maximum)}"
    if found > WAL_TIMES_MAX * maximum:
        return warning(
            said,
            f"at most {WAL_TIMES_MAX} times max_wal_size",
            "something keeps it: an archive_command that fails (postgres.archiving), or a slot (postgres.slots)",
        )
    return ok(said)


def _setting(facts: Facts, name: str) -> str:
    found = known(facts.database.settings).get(name)
    if found is None:
        raise UnknownFactError(f"the role may not read {name}")
    return found
