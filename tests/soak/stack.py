"""PostgreSQL, NATS and some ledger processes of the soak's own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.ports import free_port
from deploy.local.servers import NatsServer, PostgresServer
from ledger_service.store.migrations import migrate
from tests.servers import LedgerProcess, renew_stream, run_apart
from tests.tokens import make_token_known

#: So that the verifier can put the log in the order of its commits.
COMMIT_TIMES: Final = {"track_commit_timestamp": "on"}


@dataclass(frozen=True)
class Stack:
    database_url: str
    nats_url: str
    ledgers: list[LedgerProcess]


@contextmanager
def stack_of(folder: Path, processes: int, *, durable: bool) -> Iterator[Stack]:
    """All of it, started and ready; ``durable`` as in production, else without fsync.

    Raises MissingServerError where the servers' wheels are not installed. On the main thread only: the servers end
    with the thread that started them.
    """
    with ExitStack() as stack:
        postgres = PostgresServer(folder / "postgres", durable=durable, settings=COMMIT_TIMES)
        nats = NatsServer(folder / "nats")
        for server in (postgres, nats):
            stack.callback(server.stop)
            server.start()
        run_apart(migrate(postgres.url))
        run_apart(make_token_known(postgres.url))
        run_apart(renew_stream(nats.url))
        settings = {"database_url": postgres.url, "nats_url": nats.url, "expiry_interval_seconds": 0.2}
        ledgers = []
        for _ in range(processes):
            port = free_port()
            ledgers.append(LedgerProcess(port, folder / f"ledger-{port}.log", settings))
            stack.callback(ledgers[-1].stop)
            ledgers[-1].launch()
        for ledger in ledgers:
            ledger.start()  # waits
        yield Stack(postgres.url, nats.url, ledgers)
