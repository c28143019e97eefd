"""The loop of tests that only wait for time: an hour on it takes no time.

The server, its client and the test are those of the other loops. What is virtual is the
clock, and the network between them is in memory (``labserver.simulated``)::

    pytestmark = pytest.mark.loops("virtual")
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from unittest.mock import patch

from labserver.server.server import LabServer
from labserver.simulated.kernel import WALL, virtual
from labserver.simulated.loop import Process, here
from labserver.simulated.network import Listener, Network, NetworkLoop
from labserver.simulated.redis import Caller, SimulatedRedis
from labserver.simulated.store import Store

SEED = "a test"
REDIS, PORT = "redis", 6379


class TestLoop(NetworkLoop):
    """A virtual loop without disorder, on which one program runs: the test."""

    def __init__(self) -> None:
        super().__init__(SEED, disorder=0.0)
        network = Network(self, SEED)
        store = Store(lambda: round((WALL + self.time()) * 10**6))
        self.redis = SimulatedRedis(Process(self, REDIS, SEED), store)
        listener = Listener(network, self.redis.process, REDIS, PORT)
        listener.begin(partial(Caller, self.redis))
        self.set_exception_handler(None)  # so that it logs as other loops do

    def run_forever(self) -> None:
        with (
            virtual(self.network, SEED),
            patch.object(LabServer, "open_socket", _in_memory),
        ):
            super().run_forever()

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Any, path: Any = None, **options: Any
    ) -> Any:
        """Connect to the simulated Redis: it is in the place of the session's."""
        return await self.network.connect(protocol_factory, REDIS, PORT)

    def close(self) -> None:
        super().close()
        self.judge.tasks.clear()


def _in_memory(server: LabServer) -> Any:
    """Return the listening socket of a server that runs on this loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TestLoop)
    server.tls = None
    listener = Listener(loop.network, here(), server.host, server.port)
    server.port = listener.address[1]
    return listener
