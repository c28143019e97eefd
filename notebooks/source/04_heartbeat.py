# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · Heartbeats
#
# **Promise:** a dead peer is gone within two intervals. · *about 30 minutes*
#
# A laptop lid closes, a phone enters a tunnel. No close frame is sent, and to the
# server the connection still looks open. This chapter shows how long a server keeps
# such a connection, and how it notices that the peer is gone.

# %%
from labserver.notebook import (
    check,
    compare,
    curves,
    expected,
    mistakes,
    my_guess,
    probe,
    show,
    vanished,
)
from labserver.stages import heartbeat

# %% [markdown]
# ## Break: forty peers vanish at stage 3
#
# Forty clients are in a room. They are connected through a proxy that can break the
# network (`labserver faults` is the same proxy on the command line). The proxy freezes:
# both sides stay connected, but no bytes pass and neither side gets an error. How many
# of the dead clients does the server notice?

# %%
print(await vanished("rooms", seconds=1.5))

# %% [markdown]
# They would still be members tomorrow: nothing is sent to them, so TCP misses nothing.
# There are two kinds of dead peers, and what TCP has by itself sees one of them, late:
#
# - **The network is gone**: packets are lost. When the server sends something, Linux
#   ends the connection after `tcp_retries2` retries, by default about a quarter of an
#   hour (with 4 retries instead of 15 it was measured at 6.4 s). When it sends nothing,
#   only TCP keepalive notices, by default after more than two hours.
#   `TCP_USER_TIMEOUT` sets how long sent data may stay without an acknowledgement.
# - **The peer is alive and does not read**: a program that hangs, or this proxy. Its
#   kernel acknowledges what it takes, answers keepalive, and says that it is full. So
#   retries and keepalive never end it. `TCP_USER_TIMEOUT` may, when it is full, and
#   then it ends a slow reader just as well.
#
# ## Predict
#
# The next server pings each client once a second, and cuts those that do not answer.
# After how many seconds will the **last** of the forty be gone? Set a number, or leave
# `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# This is the whole stage. Note that it never waits for a peer. The buffer of a dead
# peer may be full, and then a wait for it never ends. `cut` calls `transport.abort()`,
# which does not wait.

# %%
show(heartbeat)

# %% [markdown]
# ## Run: pings that are spread, and pings in one sweep
#
# We use the same forty clients and a heartbeat of one second. The stage pings each peer
# at a time of its own. The mistaken version has one timer, and pings all peers when it
# fires.

# %%
INTERVAL = 1.0
spread = await vanished("heartbeat", heartbeat_interval=INTERVAL)
print("spread:", spread)

# %%
sweep = await vanished(
    "heartbeat", heartbeat_interval=INTERVAL, mistake="pings-in-one-tick"
)
print("sweep: ", sweep)

# %% [markdown]
# ## Observe: predicted and measured
#
# Each peer is pinged at a random moment of the interval, and its answer is due three
# quarters of an interval later. So the server cuts the first peer about 0.75 s after it
# vanished and the last about 1.75 s after, and the share grows evenly in between. That
# is the predicted line. It is not fitted to the measurement. A machine adds some
# hundredths of a second, or more when it is busy.

# %% tags=["picture"]
curves(
    {
        "predicted": expected(INTERVAL, spread.times[-1]),
        "spread": (spread.times, spread.gone),
        "one sweep": (sweep.times, sweep.gone),
    },
    title="When a server notices that forty peers vanished",
    x="seconds since they vanished; the interval is 1 s",
    y="noticed, %",
    steps=False,
    marks={"two intervals": 2 * INTERVAL},
)

# %%
compare(my_guess, spread.when(100) or float("nan"), "seconds until the last was gone")

# %% [markdown]
# The sweep is not slower. But it puts all pings, all pongs and all closes into one turn
# of the event loop, once an interval. With forty clients that takes no noticeable time;
# with forty thousand it is a latency spike in every interval.
#
# ## Run: the library's keepalive
#
# `websockets` has a keepalive of its own, and it works as long as there is room in the
# buffers. In a busy room they fill up. Then the ping waits behind the unsent messages,
# and the timeout only starts when the ping is sent. Here three peers vanish while
# messages are published to the room:

# %%
for name, options in {
    "the stage": {},
    "library keepalive": {"mistake": "library-keepalive"},
}.items():
    print(
        f"{name:18}",
        await vanished(
            count=3, full=True, seconds=2, heartbeat_interval=0.5, **options
        ),
    )

# %% [markdown]
# After four intervals the library has noticed none of them. It would not notice them
# after an hour, as their kernels are alive; were their network gone, the server's
# kernel would end them after about a quarter of one. That is why the stage never waits
# for a peer and ends with `transport.abort()`.
#
# ## Exercise: who is dead?
#
# `peers` is by name, `{"bob": {"pinged": 10, "ponged": 9.1, "seen": 9.1}}`: the seconds
# at which the last ping to it was sent, its last pong arrived, and any frame from it
# arrived. Return the names of
# the dead peers: those whose ping is at least `patience` seconds old and that have sent
# nothing since the ping (a frame at the same moment counts as since).
#
# <details><summary>Hint</summary>
#
# Any frame is a sign of life, not only a pong. Check all peers: more than one may be
# dead.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def dead(peers: dict, now: float, patience: float) -> list[str]:
#     return [
#         name
#         for name, peer in peers.items()
#         if peer["pinged"] > peer["seen"] and now - peer["pinged"] >= patience
#     ]
# ```
#
# </details>


# %% tags=["exercise"]
def dead(peers: dict, now: float, patience: float) -> list[str]:
    # Three to five lines.
    ...


# %%
check(dead)

# %% [markdown]
# ## Build: your own heartbeat
#
# Now write the part itself. A server makes one object of it, and calls
#
# - `start(metrics)` when it begins, `stop()` when it ends;
# - `watch(connection)` for each new connection, `forget(connection)` when one is over;
#   both are plain functions, which wait for nothing.
#
# What your class needs of a connection:
#
# - `connection.send_ping()` sends a ping, and waits for nothing;
# - `connection.pinged` and `connection.seen` are the times of the last ping to it and
#   of the last frame from it;
# - `connection.reads()` says whether it still takes what was sent before the last ping:
#   a slow reader has the ping behind other messages, and cannot have answered yet;
# - `connection.cut(HEARTBEAT_LOST)` ends it at once. Count it: `metrics.dead += 1`.
#
# `probe` puts your class into a real server of this stage. It asks it what
# `labserver judge` asks any server, and says what it saw.
#
# <details><summary>Hint</summary>
#
# `asyncio.get_running_loop().call_later(seconds, function, connection)` calls a
# function later, and returns a timer that has a `cancel()`. A random wait comes first,
# once. Then the steps are: ping; half an interval later look whether the peer is still
# reading, and leave it alone until the next ping if it is; a quarter later cut it if
# it is dead; another quarter later ping again. A peer that has just read the ping needs
# a moment to answer: that is why you look before. Keep each connection's timer in a
# dictionary.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import asyncio
# import random
#
# from labserver.contract.closing import HEARTBEAT_LOST
#
#
# class MyHeartbeat:
#     def __init__(self, interval: float) -> None:
#         self.interval = interval  # seconds between two pings to the same peer
#         self.timers = {}  # by connection: what happens to it next
#
#     async def start(self, metrics) -> None:
#         self.loop, self.metrics = asyncio.get_running_loop(), metrics
#
#     async def stop(self) -> None:
#         for connection in list(self.timers):
#             self.forget(connection)
#
#     def watch(self, connection) -> None:
#         self.later(random.random() * self.interval, self.ping, connection)
#
#     def forget(self, connection) -> None:
#         if connection in self.timers:
#             self.timers.pop(connection).cancel()
#
#     def later(self, seconds: float, do, connection) -> None:
#         self.timers[connection] = self.loop.call_later(seconds, do, connection)
#
#     def ping(self, connection) -> None:
#         connection.send_ping()
#         self.later(self.interval / 2, self.look, connection)
#
#     def look(self, connection) -> None:
#         if connection.pinged > connection.seen and connection.reads():
#             self.later(self.interval / 2, self.ping, connection)  # ask again
#         else:
#             self.later(self.interval / 4, self.judge, connection)
#
#     def judge(self, connection) -> None:
#         if connection.pinged > connection.seen and not connection.reads():
#             self.metrics.dead += 1
#             self.forget(connection)
#             connection.cut(HEARTBEAT_LOST)
#         else:
#             self.later(self.interval / 4, self.ping, connection)
# ```
#
# </details>

# %% tags=["build"]
import asyncio
import random

from labserver.contract.closing import HEARTBEAT_LOST


class MyHeartbeat:
    def __init__(self, interval: float) -> None:
        self.interval = interval  # seconds between two pings to the same peer

    async def start(self, metrics) -> None: ...

    async def stop(self) -> None: ...

    def watch(self, connection) -> None: ...

    def forget(self, connection) -> None: ...


# %%
await probe(MyHeartbeat)

# %% [markdown]
# A timer for each connection is short, and does for ten thousand peers. The stage turns
# a wheel of 64 slots instead: one timer for all, and a stall of the server itself shows
# there at once, so that it is not mistaken for the silence of its peers.

# %% [markdown]
# ## Mistakes

# %%
await compare("heartbeat", "sweep-returns")

# %%
await mistakes("heartbeat")

# %% [markdown]
# ## Load, and the price
#
# Faster detection costs more pings. At the default interval of 25 s, a dead peer is
# gone within 50 s, and ten thousand clients need 400 pings a second. This measures,
# among the other scenarios, what idle clients cost on the last stage:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# A peer that reads slowly may still answer every ping. Its unread messages pile up in
# the server's memory. Next: **5 · Backpressure**.
