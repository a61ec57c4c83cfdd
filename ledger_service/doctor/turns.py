"""In which order what grows is looked at: the ledger works meanwhile, and must not look as if it had lost anything."""

import asyncio

from ledger_service.doctor.seals import Published


class Turns:
    """PostgreSQL and NATS are asked side by side, but for two pairs: what cannot be behind is read after what it is
    compared with. Each is set, however its reading ends."""

    def __init__(self) -> None:
        #: How far the database has the stream; then the stream's own end is read.
        self.mark_read = asyncio.Event()
        #: Which checkpoints were published, by place; then the database's chain is read beside them.
        self.published: dict[str, Published] = {}
        self.published_read = asyncio.Event()
