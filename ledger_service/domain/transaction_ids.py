"""PostgreSQL's transaction ids, after a dump was loaded into a new cluster: they begin anew, and the log's do not."""

from typing import Final

#: Of one file of pg_xact. Where the next id is in the middle of one, PostgreSQL wants that file, and does not start.
_IDS_PER_FILE: Final = 1 << 20
_IDS_PER_EPOCH: Final = 1 << 32


def how_to_raise(above: int) -> str:
    """What makes the next transaction's id a higher one. That of an epoch's beginning stands for none."""
    wanted = (above // _IDS_PER_FILE + 1) * _IDS_PER_FILE
    if wanted % _IDS_PER_EPOCH == 0:
        wanted += _IDS_PER_FILE
    epoch, number = divmod(wanted, _IDS_PER_EPOCH)
    return f"stop PostgreSQL, `pg_resetwal --epoch={epoch} --next-transaction-id={number} -D DATA`, and start it"
