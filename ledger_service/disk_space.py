"""Room for what a comparison of all accounts writes to temporary files of the database server."""

import os
from pathlib import Path
from typing import Final

from ledger_service.store.pool import Connection
from ledger_service.store.server_files import data_folder
from ledger_service.store.tables import SQL

#: What is recomputed is about as many rows as these have.
_TABLES: Final = ("usage_log", "decisions")
#: Temporary files for each byte of them; measured, see deploy/decisions/0010.
TIMES: Final = 5
_GIGABYTE: Final = 10**9


class TooLittleSpaceError(Exception):
    """The server's disk has less room than a comparison is expected to need."""


async def check_space(connection: Connection) -> int:
    """Bytes that are expected to be needed. Raises TooLittleSpaceError where there are fewer, as far as that may be
    known: where the server's files are on this machine, and its settings may be read."""
    needed: int = await connection.fetchval(SQL["disk"], list(_TABLES)) * TIMES
    folder = await data_folder(connection)
    free = _free(folder)
    if free is not None and free < needed:
        raise TooLittleSpaceError(
            f"about {needed / _GIGABYTE:.1f} GB of temporary files are needed in {folder}, and "
            f"{free / _GIGABYTE:.1f} GB are free"
        )
    return needed


def _free(folder: Path | None) -> int | None:
    if folder is None or not folder.is_dir():
        return None
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
