"""Of this machine, the LEDGER_* settings, and the ledger process itself."""

from typing import Final

from ledger_service.domain.doctor.amounts import duration, size, some
from ledger_service.domain.doctor.facts import Facts
from ledger_service.domain.doctor.findings import Verdict, failure, known, ok, skipped, unknown, warning

PYTHON_MIN: Final = (3, 11)
#: Older ones have flaws that matter here; the names as pip has them.
PACKAGES_MIN: Final = {"asyncpg": (0, 31), "nats-py": (2, 16), "pyjwt": (2, 13)}
DISK_FREE_BYTES_MIN: Final = 10**9
DISK_FREE_SHARE_MIN: Final = 0.1
#: As the process tells it at /metrics, beside what is seen from here.
_DIVERGED: Final = "ledger_seals_diverged"
_BEHIND_SECONDS: Final = "ledger_ingest_lag_seconds"
_BEHIND_SECONDS_MAX: Final = 60.0


def python(facts: Facts) -> Verdict:
    version = facts.machine.python
    text = ".".join(map(str, version))
    if version < PYTHON_MIN:
        return failure(f"Python {text}", "3.11 or newer", "make the environment anew with a newer Python: `make`")
    return ok(f"Python {text}")


def packages(facts: Facts) -> Verdict:
    found = {name: facts.machine.packages.get(name, "") for name in PACKAGES_MIN}
    old = [
        f"{name} {version or 'is missing'}" for name, version in found.items() if _numbers(version) < PACKAGES_MIN[name]
    ]
    if old:
        wanted = some([f"{name} {'.'.join(map(str, least))}" for name, least in PACKAGES_MIN.items()])
        return failure(some(old), f"at least {wanted}", "install what requirements.lock names: `make`")
    return ok(some([f"{name} {version}" for name, version in found.items()]))


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def settings(facts: Facts) -> Verdict:
    if facts.settings.problems:
        return failure(
            some(list(facts.settings.problems)),
            "settings that can be read",
            "correct them; nothing else can be looked at",
        )
    return ok("all LEDGER_* settings can be read")


def names(facts: Facts) -> Verdict:
    """A misspelt name is a setting that silently is not made."""
    if facts.settings.unknown_names:
        return warning(
            f"no setting has this name: {some(list(facts.settings.unknown_names))}",
            "names of settings",
            "correct or unset them: what they were to change is as if nobody had set it",
        )
    return ok("every LEDGER_* variable is a setting")


def files(facts: Facts) -> Verdict:
    _readable(facts)
    if facts.settings.files:
        told = some([f"{name}: {why}" for name, why in facts.settings.files.items()])
        return failure(told, "files and folders that the ledger can use", "correct the path, or the rights on it")
    return ok("files and folders that settings name can be used")


def tokens(facts: Facts) -> Verdict:
    _readable(facts)
    if not facts.settings.requires_tokens:
        return warning(
            "LEDGER_AUTH=off: everybody may do everything, as anybody", "LEDGER_AUTH=required", "unset LEDGER_AUTH"
        )
    return ok("tokens are required")


def privacy(facts: Facts) -> Verdict:
    """Whether nobody between us and a server can listen, or answer in its place."""
    _readable(facts)
    open_ = [
        what
        for what, safe in (
            ("PostgreSQL", facts.settings.database_is_verified),
            ("NATS", facts.settings.nats_is_private),
        )
        if not safe
    ]
    if open_:
        return warning(
            f"{' and '.join(open_)}: on another machine, and not verified by TLS",
            "sslmode=verify-full, tls://",
            "set LEDGER_DATABASE_CA_FILE; begin LEDGER_NATS_URL with tls://, with LEDGER_NATS_CA_FILE",
        )
    return ok("on this machine, or verified by TLS")


def default_plan(facts: Facts) -> Verdict:
    _readable(facts)
    plan = facts.settings.default_plan_id
    if plan is None:
        return skipped("LEDGER_DEFAULT_PLAN_ID is not set: accounts have to be registered")
    if not known(facts.database.default_plan_exists):
        return failure(
            f"LEDGER_DEFAULT_PLAN_ID = {plan}, which is no plan",
            "a plan that there is",
            f"make it (PUT /v1/plans/{plan}), or correct the setting: until then unregistered accounts are denied",
        )
    return ok(f"unregistered accounts are on the plan {plan}")


def owner(facts: Facts) -> Verdict:
    _readable(facts)
    if facts.settings.owner_is_another is None:
        return skipped("LEDGER_OWNER_DATABASE_URL is for `ledger migrate` alone, and not set here")
    if not facts.settings.owner_is_another:
        return failure(
            "LEDGER_OWNER_DATABASE_URL and LEDGER_DATABASE_URL name one role",
            "two roles",
            "the owner could rewrite the log: give the ledger a role of its own; `ledger migrate` makes it",
        )
    return ok("the owner is another role than the ledger's")


def running(facts: Facts) -> Verdict:
    """Whether any ledger works on this database and stream: seen from the servers."""
    consumer, server = facts.nats.consumer, facts.database.server
    requests, sessions = getattr(consumer, "waiting", None), getattr(server, "ledger_connections", None)
    if requests is None and sessions is None:
        return unknown("neither PostgreSQL nor NATS can be asked")
    if not requests and not sessions:
        return failure(
            "no ledger is connected",
            "one or more",
            "start it: `python -m ledger_service`, or the service that runs it; its log says why it ended",
        )
    if not requests or not sessions:
        where = "PostgreSQL, and none asks NATS for events" if sessions else "NATS, and none to PostgreSQL"
        if requests is None or sessions is None:
            return ok(f"a ledger is connected to {where.partition(',')[0]}")
        return warning(
            f"a ledger is connected to {where}",
            "connected to both",
            "see that LEDGER_* here are those of the ledger that runs, and read its log",
        )
    return ok(f"a ledger has {sessions} connections to PostgreSQL, and asks NATS for events")


def ready(facts: Facts) -> Verdict:
    """What a ledger process says of itself."""
    service = known(facts.service)
    if service.trouble:
        if not service.asked:
            return skipped(f"nobody answers at {service.url}: {service.trouble}", "where it is elsewhere: --ledger-url")
        return failure(
            f"{service.url}: {service.trouble}", "/readyz answers 200", "start that ledger, or correct --ledger-url"
        )
    if not service.ready:
        told = some([f"{part} is {how}" for part, how in service.parts.items() if how != "ok"])
        return failure(
            f"{service.url} is not ready: {told}",
            "/readyz answers 200",
            "what is down there may be up from here: compare its LEDGER_* settings and network with these",
        )
    if service.gauges.get(_DIVERGED, 0.0) > 0:
        return failure(
            f"{service.url} seals nothing: what was published does not go on in its database",
            f"{_DIVERGED} = 0",
            "`ledger seals verify`; after a restore, `ledger close-gap`",
        )
    behind = service.gauges.get(_BEHIND_SECONDS, 0.0)
    if behind > _BEHIND_SECONDS_MAX:
        return warning(
            f"{service.url} is {duration(behind)} behind the stream",
            f"less than {duration(_BEHIND_SECONDS_MAX)}",
            "see flow.ingest, and the runbook",
        )
    return ok(f"{service.url} is ready")


def _readable(facts: Facts) -> None:
    known(facts.settings.readable)


def disk(facts: Facts) -> Verdict:
    """Where it can be known: folders on this machine."""
    found = known(facts.disks)
    if not found:
        return skipped("no folder of the servers is on this machine, or may be looked at", "name some with --disk")
    least = min(found, key=lambda one: one.free_bytes / max(one.total_bytes, 1))
    said = f"{size(least.free_bytes)} of {size(least.total_bytes)} are free in {least.folder} ({least.what})"
    advice = "make room, or enlarge it: a full disk stops the server; what the ledger needs to keep is in the guide"
    if least.free_bytes < DISK_FREE_BYTES_MIN:
        return failure(said, f"more than {size(DISK_FREE_BYTES_MIN)}", advice)
    if least.free_bytes < DISK_FREE_SHARE_MIN * least.total_bytes:
        return warning(said, f"more than {DISK_FREE_SHARE_MIN:.0%}", advice)
    return ok(said)
