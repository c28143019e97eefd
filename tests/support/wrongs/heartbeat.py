"""Wrong solutions of chapter 4, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

# A heartbeat that turns over all connections, once an interval.
SWEEP = """
class MyHeartbeat(MyHeartbeat):
    async def start(self, metrics):
        self.metrics, self.all = metrics, set()
        self.task = asyncio.create_task(self.turn())

    async def stop(self):
        self.task.cancel()

    def watch(self, connection):
        self.all.add(connection)

    def forget(self, connection):
        self.all.discard(connection)

    async def turn(self):
        while True:
            await asyncio.sleep(self.interval)
            self.sweep()

    def sweep(self):
        for connection in list(self.all):
            if connection.pinged > connection.seen and not connection.reads():
                self.metrics.dead += 1
                self.forget(connection)
                connection.cut(HEARTBEAT_LOST)
            else:
                connection.send_ping()
"""

DEAD = "connection.pinged > connection.seen and not connection.reads()"

# A method that counts the looks at a silent peer.
SILENT = """

    def silent(self, connection):
        self.times = getattr(self, "times", {})
        self.times[connection] = self.times.get(connection, 0) + 1
        return self.times[connection]
"""

WRONGS: tuple[Wrong, ...] = (
    Wrong(
        "a slow reader is dead",
        "a peer that reads, slowly",
        (
            (DEAD, "connection.pinged > connection.seen"),
            ("connection.pinged > connection.seen and connection.reads()", "False"),
        ),
    ),
    Wrong("nobody is judged", "the pings go out", ((DEAD, "False"),)),
    Wrong("a goodbye to the dead", "a close frame is a", ((".cut(", ".end("),)),
    Wrong(
        "an impatient look",
        "live peers were",
        (
            ("self.interval / 2, self.look", "0, self.look"),
            ("self.interval / 4, self.judge", "0, self.judge"),
        ),
    ),
    Wrong(
        "three silent pings",
        "they are cut too late",
        ((DEAD, f"{DEAD} and self.silent(connection) > 2"),),
        SILENT,
    ),
    Wrong(
        "two silent pings",
        "they are cut too late",
        ((DEAD, f"{DEAD} and self.silent(connection) > 1"),),
        SILENT,
    ),
    Wrong(
        "a late look",
        "they are cut too late",
        (("self.interval / 4, self.judge", "self.interval * 2, self.judge"),),
    ),
    Wrong(
        "a close that is not awaited",
        "they are counted as dead",
        ((".cut(HEARTBEAT_LOST)", ".close(HEARTBEAT_LOST.code)"),),
    ),
    Wrong("not counted", "the peers are gone", (("dead += 1", "dead += 0"),)),
    Wrong(
        "one ping",
        "too few pings",
        (("self.interval / 4, self.ping", "60, self.ping"),),
    ),
    Wrong("one timer for all", "one timer pings", more=SWEEP),
    Wrong(
        "a return in the loop",
        "some of the dead",
        more=SWEEP.replace("connection.cut", "return connection.cut"),
    ),
    Wrong(
        "a set that changes",
        "to cut a connection also",
        more=SWEEP.replace("list(self.all)", "self.all"),
    ),
    Wrong(
        "a ping that is awaited",
        "somebody waits for a peer",
        more=f"""
class MyHeartbeat(MyHeartbeat):
    def watch(self, connection):
        self.timers[connection] = asyncio.create_task(self.beat(connection))

    async def beat(self, connection):
        while True:
            await connection.ping()
            connection.pinged = connection.loop.time()
            await asyncio.sleep(self.interval * 3 / 4)
            if {DEAD}:
                self.metrics.dead += 1
                return connection.cut(HEARTBEAT_LOST)
            await asyncio.sleep(self.interval / 4)
""",
    ),
)
