"""The servers that the wheels carry. Both are processes to start, stop and ask for their `url`, `pid` and `port`."""

from deploy.local.nats import NatsServer
from deploy.local.postgres import PostgresServer

__all__ = ["NatsServer", "PostgresServer"]
