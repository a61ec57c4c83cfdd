"""Three NATS servers that keep three copies of the stream, each a process that can be killed by itself."""

import asyncio
from pathlib import Path
from random import Random
from typing import Final

import nats
import nats.errors

from contracts.subjects import STREAM
from deploy.local.nats import NatsServer
from deploy.local.ports import HOST, free_port
from tests.e2e.driver import eventually

NODES: Final = 3
ELECTION_SECONDS_MAX: Final = 30.0


class ClusterNode(NatsServer):
    """A NATS server that finds the others by the ports of their routes."""

    def __init__(self, data_dir: Path, cluster_ports: list[int], own: int) -> None:
        super().__init__(data_dir)
        self.name = f"nats-{own}"
        self._choose_port = False  # the others and the clients know it
        self._cluster_port = cluster_ports[own]
        self._routes = ", ".join(f'"nats-route://{HOST}:{port}"' for port in cluster_ports)

    @property
    def server_name(self) -> str:
        return self._server_name

    def configuration(self) -> str:
        listen = f'"{HOST}:{self._cluster_port}"'
        cluster = f'cluster {{\n  name: "ledger"\n  listen: {listen}\n  routes: [{self._routes}]\n}}\n'
        return super().configuration() + cluster


class NatsCluster:
    """Started on the main thread; ``close`` leaves no process."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(NODES)]
        self.nodes = [ClusterNode(folder / f"nats-{own}", ports, own) for own in range(NODES)]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    async def start(self) -> None:
        """Returns when JetStream has a leader, and can make streams."""
        for node in self.nodes:
            node.prepare()
            node.launch()
        await eventually(self._account, bool, ELECTION_SECONDS_MAX)

    async def _account(self) -> bool:
        client = await nats.connect(self.urls, allow_reconnect=False, connect_timeout=2)
        try:
            await client.jetstream(timeout=1).account_info()
        finally:
            await client.close()
        return True

    async def leader(self) -> ClusterNode:
        """Of the stream, as soon as it has one."""

        async def find() -> ClusterNode | None:
            client = await nats.connect(self.urls, allow_reconnect=False, connect_timeout=2)
            try:
                found = (await client.jetstream(timeout=1).stream_info(STREAM)).cluster
            finally:
                await client.close()
            name = found.leader if found is not None else None
            return next((node for node in self.nodes if node.server_name == name), None)

        leader = await eventually(find, lambda node: node is not None, ELECTION_SECONDS_MAX)
        assert leader is not None
        return leader

    def some(self, chance: Random, count: int) -> list[ClusterNode]:
        return chance.sample(self.nodes, count)

    async def whole(self) -> None:
        """Every node runs and knows who leads."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            await eventually(lambda node=node: asyncio.to_thread(node.probe), bool)  # type: ignore[misc]  # its default
        await self.leader()

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
