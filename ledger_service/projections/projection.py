"""What a projection says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Projection:
    """A table that follows from the log.

    ``rebuild_sql`` answers the table's rows as the log has them, its columns named as the table's. It reads the
    relations of facts.sql, ``rebuilt_<name>`` of projections that stand before it in the registry, and ``live_<name>``,
    the table itself. One that is not ``by_account`` reads ``events`` and ``live_<name>`` alone, or the table of the one
    that it ``sums_up``: whenever that is put right, this has to be compared anew.

    ``apply_sql``: how ingest folds the rows of ``incoming``, a batch new to the log, into the table; ``under_lock``: it
    reads or writes what limit checks decide on, so it runs once the accounts are locked. None where the table is
    written together with its events, by those who write them.
    """

    name: str
    rebuild_sql: str
    apply_sql: str | None = None
    under_lock: bool = True
    by_account: bool = True
    sums_up: str | None = None
    #: Columns that are only ever added to: an error in them is taken out, whatever was added meanwhile.
    sums: tuple[str, ...] = ()
    #: Columns with JSON that is compared by its meaning; other JSON is compared as text.
    json_by_meaning: tuple[str, ...] = ()
    #: Columns that the log does not determine: not compared, and left as they are.
    untold: tuple[str, ...] = ()
    #: What of the table is taken at its word, and why, for people: what → why.
    trusted: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    #: SQL, conditions on a row ``t``: it is in an archive and so not in the table; it is on its way there or back, and
    #: so may be here or there.
    archived_sql: str | None = None
    moving_sql: str | None = None
    #: Run where rows were replaced, with their accounts as $1: has processes that remember such rows read them again.
    replaced_sql: str | None = None
    #: Nothing tells processes to do so: they are to be started again.
    remembered: bool = False
