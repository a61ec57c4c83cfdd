"""Of what goes through: clocks, how far ingest and seals are behind, what is stuck, webhooks, old transactions."""

from collections.abc import Callable
from typing import Final

from ledger_service.domain.doctor.amounts import duration, some
from ledger_service.domain.doctor.facts import Clock, Facts, Unknown
from ledger_service.domain.doctor.findings import Verdict, failure, graded, known, ok, skipped, unknown, warning
from ledger_service.domain.transaction_ids import how_to_raise

CLOCK_SECONDS_WARNING: Final = 1.0
#: Tokens of an issuer are refused at some 30 seconds; holds end on the database's clock.
CLOCK_SECONDS_FAILURE: Final = 20.0
LAG_SECONDS_WARNING: Final = 10.0
LAG_SECONDS_FAILURE: Final = 120.0
HORIZON_SECONDS_WARNING: Final = 60.0
HORIZON_SECONDS_FAILURE: Final = 600.0
UNSEALED_SECONDS_WARNING: Final = 120.0
UNSEALED_SECONDS_FAILURE: Final = 1_800.0
HOLDS_OVERDUE_SECONDS_MAX: Final = 60.0
#: The first try that fails is repeated after seconds, the next after minutes.
WEBHOOK_LAG_SECONDS_MAX: Final = 60.0


def clock_of(what: str, fact: Callable[[Facts], Clock | Unknown]) -> Callable[[Facts], Verdict]:
    """The check of one server's clock beside this machine's."""

    def judge(facts: Facts) -> Verdict:
        clock = known(fact(facts))
        off, within = abs(clock.ahead_seconds), clock.within_seconds
        side = "ahead of" if clock.ahead_seconds > 0 else "behind"
        found = f"{what} is {off:.3f} s {side} this machine (± {within:.3f} s)"
        advice = (
            "synchronise all machines by NTP (chrony, systemd-timesyncd), and look at this one first: holds end, "
            "windows begin and tokens expire by these clocks"
        )
        return graded(
            off - within,
            warns=CLOCK_SECONDS_WARNING,
            fails=CLOCK_SECONDS_FAILURE,
            found=found,
            expected=f"less than {CLOCK_SECONDS_WARNING:g} s apart",
            advice=advice,
        )

    return judge


def ingest(facts: Facts) -> Verdict:
    found = known(facts.nats.consumer)
    if found is None:
        return unknown("there is no consumer ledger")
    if not found.behind or found.oldest_seconds is None:
        return ok("everything in the stream is in the log")
    return graded(
        found.oldest_seconds,
        warns=LAG_SECONDS_WARNING,
        fails=LAG_SECONDS_FAILURE,
        found=f"{found.behind:,} messages are not in the log yet, the oldest for {duration(found.oldest_seconds)}",
        expected=f"less than {duration(LAG_SECONDS_WARNING)}",
        advice="see that a ledger runs and its database answers (ledger.running, postgres.*), then the runbook",
    )


def same_history(facts: Facts) -> Verdict:
    """Whether stream and database are of one history, or one of them was put back to an earlier state."""
    mark, stream = known(facts.database.mark), known(facts.nats.stream)
    if stream is None:
        return unknown("there is no stream USAGE")
    if mark is None:
        return skipped("no ledger has worked on this database yet")
    if mark.committed_through > stream.last_sequence:
        return failure(
            f"the database has messages up to {mark.committed_through:,}, the stream ends at {stream.last_sequence:,}",
            "a stream that reaches further than the database",
            "the stream was made anew, or restored from an older copy: what producers with journals miss they publish "
            "again; start the ledger, and look at `ledger close-gap`",
        )
    if not mark.is_same_database:
        return warning(
            "the database was restarted, copied or restored since a ledger last worked on it",
            "a ledger that has looked for what is missing",
            "start the ledger, or run `ledger close-gap`: it reads again what the stream has and the database lost",
        )
    return ok(f"the database has the stream up to {mark.committed_through:,}")


def letters(facts: Facts) -> Verdict:
    by_code = known(facts.database.flow).letters_by_code
    if not by_code:
        return ok("no dead letters are open")
    told = some([f"{number:,} {code}" for code, number in sorted(by_code.items(), key=lambda one: -one[1])])
    return warning(
        f"{sum(by_code.values()):,} dead letters are open: {told}",
        "none: each is usage that is not counted",
        "`ledger dead-letters list`, then redrive or discard them",
    )


def holes(facts: Facts) -> Verdict:
    found = known(facts.database.flow).holes
    if not found:
        return ok("no source misses an event")
    told = some([f"{source} ({missing:,})" for source, missing in sorted(found.items(), key=lambda one: -one[1])])
    return warning(
        f"{sum(found.values()):,} events never arrived, though later ones did: {told}",
        "none; those under way close by themselves within seconds",
        "look again in a minute; then see that those services run; `GET /v1/sources` has the numbers",
    )


def holds(facts: Facts) -> Verdict:
    flow = known(facts.database.flow)
    if flow.holds_overdue_seconds > HOLDS_OVERDUE_SECONDS_MAX:
        return warning(
            f"a hold should have ended {duration(flow.holds_overdue_seconds)} ago",
            "holds end when they are due",
            "nothing expires them: see that a ledger runs, and nobody locks its accounts",
        )
    return ok(f"{flow.holds_open:,} holds are open, none is overdue")


def endpoints(facts: Facts) -> Verdict:
    disabled = known(facts.database.webhooks).disabled
    if disabled:
        return warning(
            f"{disabled:,} endpoint{' is' if disabled == 1 else 's are'} disabled: nothing is sent there",
            "none: what shall not be sent for a while is paused",
            "`ledger webhooks list` (with --account, those of an account) says why; mend the receiver, then "
            "`ledger webhooks resume NAME`",
        )
    return ok("no webhook is disabled")


def deliveries(facts: Facts) -> Verdict:
    lag_seconds = known(facts.database.webhooks).lag_seconds
    if lag_seconds > WEBHOOK_LAG_SECONDS_MAX:
        return warning(
            f"a webhook has not taken a delivery for {duration(lag_seconds)}",
            f"less than {duration(WEBHOOK_LAG_SECONDS_MAX)}",
            "`ledger webhooks list` (with --account, those of an account) says which fails, and with what",
        )
    return ok("no webhook's delivery waits")


def horizon(facts: Facts) -> Verdict:
    found = known(facts.database.horizon)
    if found.unborn is not None:
        return failure(
            f"the log has rows of transactions up to {found.unborn:,}, and this server has not begun those",
            "rows of transactions that have ended",
            "they are not sealed, exported or told until it has. Was a dump loaded into a new cluster? Then "
            f"{how_to_raise(found.unborn)}. Otherwise somebody slipped them in: `ledger seals verify`",
        )
    waiting = max(found.waiting_seconds, found.oldest_seconds or 0.0)
    if waiting <= HORIZON_SECONDS_WARNING:
        return ok("no old transaction is open")
    who = f": {some(list(found.oldest), 3)}" if found.oldest else ""
    return graded(
        waiting,
        warns=HORIZON_SECONDS_WARNING,
        fails=HORIZON_SECONDS_FAILURE,
        found=f"a transaction has been open for {duration(waiting)}{who}",
        expected=f"less than {duration(HORIZON_SECONDS_WARNING)}",
        advice="nothing after it is sealed, exported or cleared away: end it (select pg_terminate_backend(PID)), and "
        "set idle_in_transaction_session_timeout for whoever it is; prepared ones are in postgres.prepared",
    )


def sealing(facts: Facts) -> Verdict:
    """Whether the newest checkpoint is one of ours, and goes as far as what was published."""
    if facts.seals is None:
        return warning(
            "the log is not sealed",
            "LEDGER_SEALS_KEY_FILE, or LEDGER_SEALS_KEY",
            "without seals nobody notices a rewritten history: set the key's file, and start the ledger; or accept it "
            "with --accept seals.chain",
        )
    found = known(facts.seals)
    if found.trouble:
        return failure(
            found.trouble,
            "checkpoints by this ledger's key",
            "`ledger seals verify` says what differs; after a restore `ledger close-gap` says how a new chain begins",
        )
    size_ = found.size or 0
    further = [f"{place} ({rows:,} rows)" for place, rows in sorted(found.published.items()) if rows > size_]
    if further:
        return failure(
            f"published further than the database's chain of {size_:,} rows: {some(further)}",
            "nothing published that the database does not have",
            "the database was put back, or rewritten: `ledger seals verify`, then `ledger close-gap` for how a new "
            "chain begins",
        )
    late = {place for place, seconds in found.unpublished_seconds.items() if seconds > UNSEALED_SECONDS_WARNING}
    behind = [f"{place} ({rows:,} rows)" for place, rows in sorted(found.published.items()) if place in late]
    if behind:
        return warning(
            f"checkpoints do not arrive: {some(behind)} of {size_:,}",
            "published as they are made",
            "see that a ledger runs, and may write there",
        )
    if found.size is None:
        return ok("nothing is sealed yet")
    ago = f", {duration(found.sealed_seconds_ago)} ago" if found.sealed_seconds_ago is not None else ""
    return ok(f"{found.size:,} rows are sealed{ago}; the checkpoint's signature is right")


def seal_lag(facts: Facts) -> Verdict:
    if facts.seals is None:
        return skipped("the log is not sealed")
    found = known(facts.seals)
    if not found.unsealed_events:
        return ok("every row of the log is sealed")
    return graded(
        found.unsealed_seconds,
        warns=UNSEALED_SECONDS_WARNING,
        fails=UNSEALED_SECONDS_FAILURE,
        found=f"{found.unsealed_events:,} rows are not sealed, the oldest for {duration(found.unsealed_seconds)}",
        expected=f"less than {duration(UNSEALED_SECONDS_WARNING)}",
        advice="see that a ledger runs with the key, and that no old transaction holds it back (postgres.horizon)",
    )
