"""Of NATS: whether it is there, its version, the stream and its consumer, and whether it has room."""

from typing import Final

from ledger_service.domain.doctor.amounts import size, some
from ledger_service.domain.doctor.facts import Difference, Facts, Trouble, Unknown
from ledger_service.domain.doctor.findings import Verdict, failure, graded, known, ok, skipped, unknown, warning

VERSION_MIN: Final = (2, 12, 0)
#: With the fixes of known vulnerabilities, by minor version; later ones have them all.
SECURE: Final = {(2, 12): (2, 12, 12), (2, 13): (2, 14, 3), (2, 14): (2, 14, 3)}
FULL_SHARE_WARNING: Final = 0.8
FULL_SHARE_FAILURE: Final = 0.95

_ADVICE: Final = {
    Trouble.REFUSED: "start nats-server, or correct host and port in LEDGER_NATS_URL",
    Trouble.SILENT: "look for a firewall, or a server that hangs; one with tls:// needs handshake_first",
    Trouble.NO_ADDRESS: "correct the host in LEDGER_NATS_URL, or the machine's name resolution",
    Trouble.WRONG_PASSWORD: "correct user and password in LEDGER_NATS_URL, or the seed in LEDGER_NATS_NKEY_FILE",
    Trouble.TLS: "give the authority of the server's certificate in LEDGER_NATS_CA_FILE",
}
_STREAM_FAILS: Final = frozenset(
    {"retention", "discard", "storage", "deny_delete", "deny_purge", "max_age", "subjects", "sealed", "mirror"}
)
_MIGRATE: Final = "run `ledger migrate` with the deploy identity"


def reachable(facts: Facts) -> Verdict:
    reached = facts.nats.reached
    if reached.trouble is None:
        return ok(f"answers at {reached.place}")
    found = f"{reached.place}: {reached.trouble.value}" + (f" ({reached.detail})" if reached.detail else "")
    advice = _ADVICE.get(reached.trouble, "read the server's log, and check LEDGER_NATS_URL")
    return failure(found, "NATS answers, and lets the ledger in", advice)


def version(facts: Facts) -> Verdict:
    found = known(facts.nats.version)
    text = ".".join(map(str, found))
    if found < VERSION_MIN:
        return failure(
            f"NATS server {text}", "2.12 or newer", "upgrade: older servers silently drop settings of the stream"
        )
    secure = SECURE.get(found[:2], found)
    if found < secure:
        wanted = ".".join(map(str, secure))
        return warning(f"NATS server {text}", f"{wanted} or newer", "upgrade: older ones have known vulnerabilities")
    return ok(f"NATS server {text}")


def jetstream(facts: Facts) -> Verdict:
    if not known(facts.nats.has_jetstream):
        return failure(
            "the server has no JetStream, or our account there has not",
            "jetstream { store_dir: … }",
            "turn it on in the server's configuration, as deploy/nats/nats.conf does, and restart",
        )
    return ok("JetStream is on")


def stream(facts: Facts) -> Verdict:
    found = known(facts.nats.stream)
    if found is None:
        return failure("there is no stream USAGE", "what `ledger migrate` makes", _MIGRATE)
    bad = [one for one in found.differences if one.name in _STREAM_FAILS]
    if bad:
        return failure(
            f"USAGE has {_told(bad)}",
            _wanted(bad),
            f"events may be lost, or refused: {_MIGRATE}; storage and mirror cannot be changed, so that stream has to "
            "be made anew once ingest has all of it",
        )
    if found.differences:
        return warning(f"USAGE has {_told(found.differences)}", _wanted(found.differences), _MIGRATE)
    return ok(f"USAGE is as it must be; {found.messages:,} messages, {size(found.bytes)}")


def replicas(facts: Facts) -> Verdict:
    found = known(facts.nats.stream)
    if found is None:
        return unknown("there is no stream USAGE")
    wanted = facts.settings.stream_replicas
    said = f"USAGE is on {found.replicas} server{'s' if found.replicas > 1 else ''}"
    if found.replicas < wanted:
        return warning(said, f"{wanted}, as LEDGER_STREAM_REPLICAS says", _MIGRATE)
    return ok(said)


def room(facts: Facts) -> Verdict:
    """What the stream and our account may take."""
    found = known(facts.nats.stream)
    if found is None:
        return unknown("there is no stream USAGE")
    shares = []
    if found.bytes_max > 0:
        shares.append((found.bytes / found.bytes_max, f"USAGE: {size(found.bytes)} of {size(found.bytes_max)}"))
    if found.messages_max > 0:
        shares.append(
            (found.messages / found.messages_max, f"USAGE: {found.messages:,} of {found.messages_max:,} messages")
        )
    storage = facts.nats.storage
    if not isinstance(storage, Unknown) and storage.bytes_max > 0:
        used, maximum = storage.used_bytes, storage.bytes_max
        shares.append((used / maximum, f"JetStream of this account: {size(used)} of {size(maximum)}"))
    if not shares:
        if isinstance(storage, Unknown):
            return skipped(
                f"USAGE has no maximum; what the account may take is not known: {storage.why}",
                "let the ledger's identity publish $JS.API.INFO, as deploy/nats/permissions.conf does",
            )
        return ok(f"no maximum; {size(storage.used_bytes)} are used. The server's own disk has to be watched there")
    share, said = max(shares)
    advice = (
        "a full stream refuses events, and journals fill: raise the maximum (`max_bytes`, or `max_file_store`), or "
        "take out messages that are older than the oldest backup that you would restore"
    )
    return graded(
        share,
        warns=FULL_SHARE_WARNING,
        fails=FULL_SHARE_FAILURE,
        found=said,
        expected=f"less than {FULL_SHARE_WARNING:.0%}",
        advice=advice,
    )


def consumer(facts: Facts) -> Verdict:
    found = known(facts.nats.consumer)
    if found is None:
        return failure("there is no consumer ledger", "what `ledger migrate` makes", _MIGRATE)
    if found.differences:
        return failure(
            f"the consumer ledger has {_told(found.differences)}",
            _wanted(found.differences),
            f"{_MIGRATE}; a filter or another start cannot be changed: delete the consumer, then migrate",
        )
    return ok("the consumer ledger is as it must be")


def seals_stream(facts: Facts) -> Verdict:
    found = known(facts.nats.seals_stream)
    if found is None:
        return failure("there is no stream SEALS", "what `ledger migrate` makes", _MIGRATE)
    if found:
        return failure(f"SEALS has {_told(found)}", _wanted(found), _MIGRATE)
    return ok("SEALS is as it must be")


def syncing(facts: Facts) -> Verdict:
    """How soon an acknowledged message is on the disk. Servers do not tell clients, only who monitors them."""
    interval = facts.nats.sync_interval
    if isinstance(interval, Unknown):
        return skipped(
            f"how often JetStream syncs is not known: {interval.why}",
            "where producers without a journal publish, see that the server has sync_interval: always",
        )
    if interval in ("always", "0s"):
        return ok("every message is on the disk before it is acknowledged")
    return ok(f"synced every {interval}: journals publish again what a power failure takes; others need `always`")


def _told(differences: tuple[Difference, ...] | list[Difference]) -> str:
    return some([f"{one.name} = {one.found}" for one in differences])


def _wanted(differences: tuple[Difference, ...] | list[Difference]) -> str:
    return some([f"{one.name} = {one.wanted}" for one in differences])
