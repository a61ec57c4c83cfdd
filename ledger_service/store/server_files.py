"""Where PostgreSQL keeps its files, as far as that is a folder of this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Linux' processes; elsewhere there is no such folder.
PROCESSES: Final = Path("/proc")


async def data_folder(connection: "Connection") -> Path | None:
    """None: it is not known, or the server is on another machine, in a container, or behind a tunnel. A folder of the
    same name may be here all the same, and says nothing of the server's disk."""
    row = await connection.fetchrow(SQL["folder"])
    assert row is not None
    if row["folder"] is None or not row["is_one_address"] or not _is_here(row["process_id"]):
        return None
    return Path(row["folder"])


def _is_here(process_id: int) -> bool:
    """Whether the process that answered is one of this machine's; where nobody can say, its address has to do."""
    if not (PROCESSES / "self").exists():
        return True
    try:
        return "postgres" in (PROCESSES / str(process_id) / "comm").read_text()
    except OSError:
        return False
