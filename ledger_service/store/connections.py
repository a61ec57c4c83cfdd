"""How many connections to PostgreSQL one ledger process opens, at most: main opens them, the doctor counts them."""

from typing import Final

BACKGROUND: Final = 2
SEALER: Final = 1
#: For what is told to webhooks and on NATS.
TELLING: Final = 2
#: For as many answers at once: others wait, and never for what limit checks and other reads need.
ANALYTICS: Final = 3
#: Exports at once, and pages that are read of each at the same time, or wait to be taken: each takes a connection, and
#: the memory of a page.
EXPORTS_MAX: Final = 4
PAGES_AHEAD: Final = 2
#: Backtests at once, and repricings, beside live checks; each takes a connection.
STREAMS_MAX: Final = 1
#: All of them together; settings say how many there are for reads, checks and ingest.
BESIDE_SETTINGS: Final = BACKGROUND + SEALER + TELLING + ANALYTICS + EXPORTS_MAX * PAGES_AHEAD + 2 * STREAMS_MAX
