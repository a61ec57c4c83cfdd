"""`ledger doctor`, judging: what each check says of facts that are as they should be, and of facts that are not."""

from dataclasses import fields, replace
from typing import Any, Final

import pytest
from rich.console import Console

from ledger_service.commands.doctor import EXIT_CODES
from ledger_service.commands.doctor_screen import details, summary, table
from ledger_service.domain.doctor.checks import CHECKS
from ledger_service.domain.doctor.facts import (
    Clock,
    Database,
    Difference,
    Disk,
    Facts,
    Nats,
    Prepared,
    Reached,
    Reader,
    Slot,
    TableHealth,
    Trouble,
    Unknown,
)
from ledger_service.domain.doctor.findings import Finding, Status, examine, worst
from tests.doctor_facts import HEALTHY, database, facts, nats, postgres_setting
from tests.documents import ROOT

W, F, S, U = Status.WARNING, Status.FAILURE, Status.SKIPPED, Status.UNKNOWN
AWAY: Final = Unknown("it is away")

#: What is wrong, which check says so, how bad it is, and words that it says.
CASES: Final[tuple[tuple[Facts, str, Status, str], ...]] = (
    (facts(machine={"python": (3, 10, 1)}), "machine.python", F, "3.10.1"),
    (facts(machine={"packages": {"asyncpg": "0.31.0", "nats-py": "2.9.1", "pyjwt": "2.13"}}), "machine.packages", F,
     "nats-py 2.9.1"),
    (facts(machine={"packages": {}}), "machine.packages", F, "asyncpg is missing"),
    (facts(settings={"problems": ("LEDGER_PORT: no number",)}), "settings.readable", F, "LEDGER_PORT"),
    (facts(settings={"unknown_names": ("LEDGER_DATABSE_URL",)}), "settings.names", W, "LEDGER_DATABSE_URL"),
    (facts(settings={"files": {"LEDGER_NATS_CA_FILE": "no such file"}}), "settings.files", F, "LEDGER_NATS_CA_FILE"),
    (facts(settings={"requires_tokens": False}), "settings.tokens", W, "LEDGER_AUTH=off"),
    (facts(settings={"database_is_verified": False}), "settings.privacy", W, "PostgreSQL"),
    (facts(settings={"nats_is_private": False}), "settings.privacy", W, "NATS"),
    (facts(settings={"owner_is_another": False}), "settings.owner", F, "one role"),
    (facts(settings={"owner_is_another": None}), "settings.owner", S, "migrate"),
    (database(default_plan_exists=False), "settings.default_plan", F, "starter"),
    (facts(settings={"default_plan_id": None}), "settings.default_plan", S, "not set"),
    *((database(reached=Reached("db:1/x", one, "so")), "postgres.reachable", F, one.value) for one in Trouble),
    (database(server={"version": 150_004, "version_text": "15.4"}), "postgres.version", F, "15.4"),
    (database(server={"in_recovery": True}), "postgres.primary", F, "follows"),
    (database(server={"encoding": "SQL_ASCII"}), "postgres.text", F, "SQL_ASCII"),
    (database(server={"collation": "en_US.UTF-8"}), "postgres.text", W, "en_US"),
    (postgres_setting("fsync", "off"), "postgres.fsync", F, "fsync = off"),
    (postgres_setting("synchronous_commit", "off"), "postgres.synchronous_commit", F, "off"),
    (postgres_setting("synchronous_commit", "local"), "postgres.synchronous_commit", F, "local"),
    (postgres_setting("full_page_writes", "off"), "postgres.full_page_writes", F, "off"),
    (postgres_setting("data_checksums", "off"), "postgres.checksums", W, "off"),
    (postgres_setting("default_transaction_isolation", "serializable"), "postgres.isolation", F,
     "serializable"),
    (postgres_setting("default_transaction_read_only", "on"), "postgres.read_only", F, "on"),
    (postgres_setting("TimeZone", "Europe/Berlin"), "postgres.time_zone", W, "Berlin"),
    (postgres_setting("autovacuum", "off"), "postgres.autovacuum", F, "off"),
    (postgres_setting("track_counts", "off"), "postgres.track_counts", F, "off"),
    (postgres_setting("log_parameter_max_length_on_error", "-1"), "postgres.logged_values", W, "1"),
    (database(settings={}), "postgres.fsync", U, "may not read"),
    (database(role={"connections_max": 10}), "postgres.connections", F, "may have 10"),
    (postgres_setting("max_connections", "20"), "postgres.connections", F, "may have 17"),
    (database(server={"in_use": 90}), "postgres.connections", W, "90 of 97"),
    (postgres_setting("archive_mode", "off"), "postgres.archiving", W, "not archived"),
    (postgres_setting("wal_level", "minimal"), "postgres.archiving", W, "not archived"),
    (database(archiver={"failed_seconds_ago": 3.0, "failed_file": "0001"}), "postgres.archiving", F, "0001"),
    (database(archiver={"archived_seconds_ago": None}), "postgres.archiving", W, "nothing"),
    (database(archiver={"archived_seconds_ago": 80_000.0}), "postgres.archiving", W, "22 h"),
    (database(prepared=(Prepared("forgotten", 4_000.0),)), "postgres.prepared", F, "forgotten"),
    (database(slots=(Slot("gone", False, 0, "lost"),)), "postgres.slots", W, "gone"),
    (database(slots=(Slot("idle", False, 10, "reserved"),)), "postgres.slots", W, "idle"),
    (database(slots=(Slot("slow", True, 3 * 10**9, "extended"),)), "postgres.slots", W, "3.0 GB"),
    (database(slots=(Slot("slow", True, 30 * 10**9, "extended"),)), "postgres.slots", F, "30.0 GB"),
    (database(tables=(TableHealth("counters", 10**5, 10**6, 0, True),)), "postgres.vacuum", W, "1,000,000 dead"),
    (database(tables=(TableHealth("counters", 10**6, 0, 0, False),)), "postgres.vacuum", W, "knows nothing"),
    (database(frozen_age=6 * 10**8), "postgres.wraparound", W, "600,000,000"),
    (database(frozen_age=19 * 10**8), "postgres.wraparound", F, "1,900,000,000"),
    (database(sizes=AWAY), "postgres.volume", U, AWAY.why),
    (database(wal_bytes=5 * 10**9), "postgres.wal", W, "5.0 GB"),
    (database(wal_bytes=Unknown("may not see that")), "postgres.wal", S, "pg_monitor"),
    (database(horizon={"waiting_seconds": 100.0}), "postgres.horizon", W, "100 s"),
    (database(horizon={"oldest_seconds": 5_000.0, "oldest": ("pid 7 of bob",)}), "postgres.horizon", F, "pid 7 of bob"),
    (database(migrations={"applied": {}}), "schema.version", F, "no schema"),
    (database(migrations={"applied": {"0001.sql": "a"}}), "schema.version", F, "older"),
    (database(migrations={"applied": dict.fromkeys(("0001.sql", "0009.sql"), "a")}), "schema.version", F, "newer"),
    (database(migrations={"applied": {"0001.sql": "a", "0002.sql": "z"}}), "schema.version", F, "another form"),
    (database(migrations={"compatible": frozenset({"0003.sql"})}), "schema.version", W, "goes on beside it: 0003.sql"),
    (database(rights={"event_log": ("insert",)}), "roles.rights", F, "event_log (insert)"),
    (database(role={"may_rewrite": True}), "roles.append_only", W, "may change"),
    (database(role={"owns": ("event_log",)}), "roles.append_only", W, "owns event_log"),
    (database(role={"powers": ("superuser",)}), "roles.powers", W, "superuser"),
    (database(role={"member_of": ("ledger_owner",)}), "roles.powers", W, "ledger_owner"),
    (database(readers=(Reader("finance", True, ("event_log",), ()),)), "roles.readers", F, "reads event_log"),
    (database(readers=(Reader("auditor", True, (), ("usage_log",)),)), "roles.readers", F, "writes usage_log"),
    (database(readers=(Reader("auditor", False, (), ()),)), "roles.readers", W, "auditor can read nothing"),
    (database(readers=()), "roles.readers", S, "neither"),
    (database(anybody_may_connect=True), "roles.strangers", W, "every role"),
    (nats(reached=Reached("n", Trouble.WRONG_PASSWORD)), "nats.reachable", F, "does not let us in"),
    (nats(version=(2, 9, 25)), "nats.version", F, "2.9.25"),
    (nats(version=(2, 12, 3)), "nats.version", W, "2.12.3"),
    (nats(version=(2, 14, 0)), "nats.version", W, "2.14.0"),
    (nats(has_jetstream=False), "nats.jetstream", F, "no JetStream"),
    (nats(stream=None), "nats.stream", F, "no stream"),
    (nats(stream={"differences": (Difference("discard", "old", "new"),)}), "nats.stream", F, "discard = old"),
    (nats(stream={"differences": (Difference("duplicate_window", "1", "120"),)}), "nats.stream", W, "window = 1"),
    (nats(stream={"replicas": 1}), "nats.replicas", W, "1 server"),
    (nats(stream={"bytes": 9 * 10**8}), "nats.room", W, "900.0 MB of 1.0 GB"),
    (nats(stream={"bytes": 99 * 10**7}), "nats.room", F, "990.0 MB"),
    (nats(stream={"messages_max": 101}), "nats.room", F, "100 of 101"),
    (nats(storage={"used_bytes": 99 * 10**8}), "nats.room", F, "JetStream of this account"),
    (nats(stream={"bytes_max": -1}, storage=AWAY), "nats.room", S, AWAY.why),
    (nats(consumer=None), "nats.consumer", F, "no consumer"),
    (nats(consumer={"differences": (Difference("filter_subject", "x", "none"),)}), "nats.consumer", F, "filter"),
    (nats(seals_stream=None), "nats.seals_stream", F, "no stream SEALS"),
    (nats(seals_stream=(Difference("deny_purge", "False", "True"),)), "nats.seals_stream", F, "deny_purge"),
    (nats(sync_interval=AWAY), "nats.syncing", S, AWAY.why),
    (database(clock=Clock(3.0, 0.01)), "clock.postgres", W, "3.000 s ahead"),
    (database(clock=Clock(-90.0, 0.01)), "clock.postgres", F, "90.000 s behind"),
    (nats(clock=Clock(-3.0, 0.01)), "clock.nats", W, "behind"),
    (replace(database(server={"ledger_connections": 0}), nats=nats(consumer={"waiting": 0}).nats), "ledger.running", F,
     "no ledger"),
    (nats(consumer={"waiting": 0}), "ledger.running", W, "none asks NATS"),
    (database(server={"ledger_connections": 0}), "ledger.running", W, "none to PostgreSQL"),
    (replace(database(server=AWAY), nats=nats(consumer=AWAY).nats), "ledger.running", U, "neither"),
    (facts(service={"trouble": "refused"}), "ledger.ready", F, "refused"),
    (facts(service={"trouble": "refused", "asked": False}), "ledger.ready", S, "refused"),
    (facts(service={"ready": False, "parts": {"nats": "down"}}), "ledger.ready", F, "nats is down"),
    (facts(service={"gauges": {"ledger_seals_diverged": 1.0}}), "ledger.ready", F, "seals nothing"),
    (facts(service={"gauges": {"ledger_ingest_lag_seconds": 90.0}}), "ledger.ready", W, "90 s"),
    (nats(consumer={"behind": 5, "oldest_seconds": 20.0}), "flow.ingest", W, "5 messages"),
    (nats(consumer={"behind": 5, "oldest_seconds": 500.0}), "flow.ingest", F, "8 min"),
    (nats(stream={"last_sequence": 99}), "flow.history", F, "ends at 99"),
    (database(mark={"is_same_database": False}), "flow.history", W, "restored"),
    (database(mark=None), "flow.history", S, "no ledger"),
    (database(flow={"letters_by_code": {"invalid_request": 7}}), "flow.dead_letters", W, "7 invalid_request"),
    (database(flow={"holes": {"image-1": 2}}), "flow.holes", W, "image-1 (2)"),
    (database(flow={"holds_overdue_seconds": 100.0}), "flow.holds", W, "100 s"),
    (database(webhooks={"disabled": 2}), "webhooks.enabled", W, "2 endpoints"),
    (database(webhooks={"lag_seconds": 400.0}), "webhooks.lag", W, "for 7 min"),
    (facts(seals=None), "seals.chain", W, "not sealed"),
    (facts(seals={"trouble": "no key of ours"}), "seals.chain", F, "no key of ours"),
    (facts(seals={"published": {"the file": 101}}), "seals.chain", F, "the file (101 rows)"),
    (
        facts(seals={"published": {"the file": 90}, "unpublished_seconds": {"the file": 900.0}}),
        "seals.chain", W, "do not arrive: the file (90 rows)",
    ),
    (facts(seals=None), "seals.lag", S, "not sealed"),
    (facts(seals={"unsealed_events": 9, "unsealed_seconds": 200.0}), "seals.lag", W, "9 rows"),
    (facts(seals={"unsealed_events": 9, "unsealed_seconds": 9_000.0}), "seals.lag", F, "2 h"),
    (facts(disks=(Disk("y", "/e", 9, 10), Disk("x", "/d", 5 * 10**9, 10**12))), "disk.room", W, "5.0 GB of 1.0 TB"),
    (facts(disks=(Disk("x", "/d", 5 * 10**8, 10**9),)), "disk.room", F, "500.0 MB"),
    (facts(disks=()), "disk.room", S, "no folder"),
)  # fmt: skip


def found(known: Facts) -> dict[str, Finding]:
    return {one.id: one for one in examine(CHECKS, known)}


def test_where_all_is_well_every_check_says_so() -> None:
    assert {one.id: one.found for one in examine(CHECKS, HEALTHY) if one.status is not Status.OK} == {}


@pytest.mark.parametrize(("known", "check", "status", "words"), CASES, ids=[f"{one[1]}: {one[3]}" for one in CASES])
def test_what_is_wrong_is_found_and_something_can_be_done(known: Facts, check: str, status: Status, words: str) -> None:
    finding = found(known)[check]
    assert (finding.status, words in finding.found) == (status, True), finding
    if status in (W, F):
        assert finding.advice
        assert finding.expected


def test_what_to_do_about_holes_names_what_has_the_numbers() -> None:
    assert "GET /v1/sources" in found(database(flow={"holes": {"image-1": 2}}))["flow.holes"].advice


def test_every_check_has_a_case_that_makes_it_say_more_than_ok() -> None:
    assert {one.id for one in CHECKS} - {check for _, check, _, _ in CASES} == set()


def test_names_are_unique_and_every_page_to_read_is_there() -> None:
    assert len({one.id for one in CHECKS}) == len(CHECKS)
    assert [one.see for one in CHECKS if not (ROOT / one.see).is_file()] == []


@pytest.mark.parametrize("part", ["database", "nats"])
def test_a_server_that_is_away_leaves_every_other_check_standing(part: str) -> None:
    away = _away(part)
    findings = found(facts(**{part: away}))
    wrong = {one.id for one in findings.values() if one.status in (W, F)}
    assert wrong == {"postgres.reachable" if part == "database" else "nats.reachable"}
    assert {one.found for one in findings.values() if one.status is U} <= {AWAY.why}


def _away(part: str) -> Database | Nats:
    of = getattr(HEALTHY, part)
    unknown: dict[str, Any] = {one.name: AWAY for one in fields(of)}  # Any: fields of many types
    changed: Database | Nats = replace(of, **unknown | {"reached": Reached("there", Trouble.REFUSED)})
    return changed


def test_settings_that_a_role_may_not_read_are_unknown_and_break_nothing() -> None:
    findings = examine(CHECKS, database(settings={}))
    assert worst(findings) is U
    assert {one.status for one in findings if one.id == "postgres.connections"} == {U}


def test_any_single_fact_may_be_unknown() -> None:
    for part in ("database", "nats"):
        for one in fields(getattr(HEALTHY, part)):
            if one.name != "reached":
                known = facts(**{part: replace(getattr(HEALTHY, part), **{one.name: AWAY})})
                assert worst(examine(CHECKS, known)) in (U, S, Status.OK), one.name


def test_what_could_not_be_seen_is_not_well_to_a_script() -> None:
    assert {status.value: code.value for status, code in EXIT_CODES.items()} == {
        "ok": 0, "skipped": 0, "unknown": 3, "warning": 3, "failure": 1,
    }  # fmt: skip


def test_what_is_accepted_is_named_and_counts_no_more() -> None:
    known = postgres_setting("archive_mode", "off")
    [accepted] = [one for one in examine(CHECKS, known, ["postgres.archiving"]) if one.id == "postgres.archiving"]
    assert (accepted.status, accepted.found) == (S, "accepted, though warning: WAL is not archived")
    assert worst(examine(CHECKS, known)) is W
    assert worst(examine(CHECKS, known, ["postgres.archiving"])) is S


@pytest.mark.parametrize("width", [80, 120])
def test_every_word_of_a_finding_is_on_a_screen_of_any_width(width: int) -> None:
    findings = examine(CHECKS, postgres_setting("synchronous_commit", "off"))
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table(findings), details(findings), summary(findings))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(captured.get().split())
    wrong = next(one for one in findings if one.status is F)
    for part in (wrong.found, wrong.expected, wrong.advice, wrong.see, "1 failure"):
        assert part in text
