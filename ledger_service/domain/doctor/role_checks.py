"""Of the schema, and of who may do what in the database."""

from ledger_service.domain.doctor.amounts import some
from ledger_service.domain.doctor.facts import Facts
from ledger_service.domain.doctor.findings import Verdict, failure, known, ok, skipped, warning

_ROLES = "run deploy/postgres/roles.sql as a superuser, then `ledger migrate` with LEDGER_OWNER_DATABASE_URL"


def schema(facts: Facts) -> Verdict:
    found = known(facts.database.migrations)
    if not found.applied:
        return failure("the database has no schema", f"{len(found.known)} migrations", "run `ledger migrate`")
    newer = sorted(set(found.applied) - set(found.known) - found.compatible)
    if newer:
        return failure(
            f"the database is newer than this ledger: {some(newer)}",
            f"up to {max(found.known)}",
            "start the version of the ledger that migrated it, or a newer one: the schema is not rolled back",
        )
    edited = sorted(name for name, digest in found.known.items() if found.applied.get(name, digest) != digest)
    if edited:
        return failure(
            f"applied in another form: {some(edited)}",
            "migrations as this version has them",
            "find out which version applied them; never edit an applied migration. A copy of the database can be "
            "migrated from nothing, and its schema compared",
        )
    missing = sorted(set(found.known) - set(found.applied))
    if missing:
        return failure(
            f"the database is older than this ledger: it misses {some(missing)}",
            f"up to {max(found.known)}",
            "run `ledger migrate`, then start the ledgers",
        )
    if found.compatible:
        return warning(
            f"the database is newer than this ledger, which goes on beside it: {some(sorted(found.compatible))}",
            f"up to {max(found.known)}",
            "an upgrade is under way, or was taken back: end it by starting the newer version everywhere",
        )
    return ok(f"up to date: {max(found.known)}")


def rights(facts: Facts) -> Verdict:
    """What the ledger's role lacks."""
    role, lacking = known(facts.database.role), known(facts.database.rights)
    if lacking:
        told = some([f"{name} ({', '.join(privileges)})" for name, privileges in sorted(lacking.items())])
        return failure(
            f"{role.name} may not: {told}",
            "what `ledger migrate` grants",
            "run `ledger migrate` with LEDGER_OWNER_DATABASE_URL for the owner: it grants them anew",
        )
    return ok(f"{role.name} has what the ledger needs")


def append_only(facts: Facts) -> Verdict:
    role = known(facts.database.role)
    if role.may_rewrite or role.owns:
        owned = f", and owns {some(list(role.owns))}" if role.owns else ""
        may = "may change what is in the log" if role.may_rewrite else "may give itself the right to change the log"
        return warning(
            f"{role.name} {may}{owned}",
            "a role that owns nothing and only appends",
            "whoever has the ledger's password could rewrite the history: " + _ROLES,
        )
    return ok(f"{role.name} only appends to the log")


def powers(facts: Facts) -> Verdict:
    role = known(facts.database.role)
    if role.powers or role.member_of:
        told = [*role.powers, *(f"member of {name}" for name in role.member_of)]
        return warning(
            f"{role.name}: {some(told)}",
            "a role without powers, that is member of none",
            "take them away: alter role … nosuperuser nocreaterole nocreatedb noreplication nobypassrls; revoke … "
            "from …",
        )
    return ok(f"{role.name} has no powers of its own")


def readers(facts: Facts) -> Verdict:
    """finance and auditor, where deploy/postgres/roles.sql made them."""
    found = known(facts.database.readers)
    if not found:
        return skipped("neither finance nor auditor is here", "for SQL of finance, " + _ROLES)
    for one in found:
        wrong = [*(f"reads {name}" for name in one.reads_too_much), *(f"writes {name}" for name in one.writes)]
        if wrong:
            return failure(
                f"{one.name} {some(wrong)}",
                "what `ledger migrate` grants, and no more",
                "somebody granted more by hand, or to everybody: run `ledger migrate`; what stays was granted to "
                "public",
            )
    blind = [one.name for one in found if not one.reads]
    if blind:
        return warning(f"{some(blind)} can read nothing", "what each is for", "run `ledger migrate` as the owner")
    return ok(f"{some([one.name for one in found])}: read what they are for, and write nothing")


def strangers(facts: Facts) -> Verdict:
    if known(facts.database.anybody_may_connect):
        return warning(
            "every role of the server may connect to the database",
            "the ledger's roles only",
            "revoke all on database … from public, as deploy/postgres/roles.sql does",
        )
    return ok("only roles that were let in may connect")
