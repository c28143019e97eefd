# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Backpressure
#
# **Promise:** a slow reader hurts only itself. · *about 40 minutes*
#
# A reader on a train reads only as fast as its network allows. The messages that it has
# not read must wait somewhere, or be dropped. This chapter shows where they wait.

# %%
from pathlib import Path

from labserver.notebook import (
    check,
    compare,
    curves,
    flood,
    latencies,
    layers,
    mistakes,
    my_guess,
    policies,
    probe,
    show,
)
from labserver.stages import backpressure

# %% [markdown]
# ## Break: one reader stops at stage 4
#
# The room has two members: `ann` reads everything, and the other has stopped reading.
# Ann publishes 8 MB in messages of 32 kB, twelve of them every tenth of a second. Each
# time she waits until she has received her own messages.

# %%
before = await flood("heartbeat")
print(before)
print(f"the server's memory grew by {before.grown:.1f} MB")

# %% [markdown]
# The server uses that memory for a single reader. Ann notices nothing, and her latency
# would look perfect in any measurement, until the process runs out of memory and every
# client loses its connection.
#
# ## Predict
#
# How many megabytes can the server write to a client that does not read, before the
# server's process has to hold a single byte for it? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# This is the whole stage. While the socket accepts everything, the stage costs one `if`
# at the start of `deliver`. The rest of the code only runs for slow readers.

# %%
show(backpressure)

# %% [markdown]
# ## Run: every policy
#
# At stage 5 at most 1 MiB may wait for one reader. Four policies say what happens
# beyond that; we compare them with stage 4. No policy keeps a reader that takes no
# bytes at all: after `stuck_timeout`, here one second, the server cuts it off.

# %%
runs = {"stage 4": await flood("heartbeat")}

# %%
runs |= await policies("disconnect", "drop-newest", stuck_timeout=1)

# %%
runs |= await policies("drop-oldest", "conflate", stuck_timeout=1)
for name, run in runs.items():
    print(f"{name:12} {run}")

# %% [markdown]
# ## Observe: what the process holds

# %% tags=["picture"]
dropping = runs["drop-oldest"]
curves(
    {
        name: (runs[name].seconds, runs[name].process)
        for name in ("stage 4", "drop-oldest", "disconnect")
    },
    title="One reader has stopped: what the server's process holds for it",
    x="seconds since the first of 8 MB",
    y="held, MB",
    marks={"the outbox is full": dropping.reached(0.9), "cut off": dropping.freed},
)

# %% [markdown]
# Both marks are moments of the run with `drop-oldest`. Until shortly before the first
# mark the kernels take all, at every stage. At the first mark the outbox is full, and
# the *policy* decides: `drop-oldest` goes on, while `disconnect`, in its own run, ends
# the connection when its outbox is full. At the second mark the reader has taken no
# byte for `stuck_timeout`, and no policy keeps it. Between the marks the line of
# `drop-oldest` may have teeth: this policy drops a quarter of the limit at once, so
# that it seldom has to go through all that waits.
#
# The default is `disconnect` (close code 4409): with a history (chapter 7) the client
# reconnects, and gets the messages that it missed if an outbox can hold them; else it
# is told so. Dropping suits data that is soon out of date, such as prices or cursors.
# The client is then told with a `gap` which messages are missing. `conflate` keeps only
# the newest message of each room.
#
# ## Observe: where the unread megabytes are
#
# A message that is written but not yet read can be in four places: the application's
# outbox, asyncio's buffer in the same process, the send queue of the server's kernel,
# and the receive queue of the peer's kernel. The process knows the sizes of the first
# two; Linux shows the last two in `/proc/net/tcp`, and on other systems they count as
# none. The second run sets small kernel buffers.

# %%
wide = runs["stage 4"]
small = await flood("heartbeat", send_buffer=65536, receive_buffer=65536)
places = {
    name: (
        run.seconds,
        {
            "the peer's kernel": run.peer,
            "the server's kernel": run.kernel,
            "the server's process": run.process,
        },
    )
    for name, run in {"as the kernel likes": wide, "64 KB of buffer": small}.items()
}
layers(
    places,
    title="Where it lies what one stuck reader does not take (stage 4)",
    x="seconds",
    y="MB",
)

# %%
hidden = wide.kernel[-1] + wide.peer[-1]
compare(my_guess, hidden, "MB in kernels")

# %% [markdown]
# Where does that number come from? Linux lets the send buffer of a connection grow as
# far as `net.ipv4.tcp_wmem` allows. Its three numbers are bytes: the least, the first,
# and the most.

# %%
limits = Path("/proc/sys/net/ipv4/tcp_wmem")
print(limits.read_text() if limits.exists() else "this machine has no /proc")

# %% [markdown]
# The server's metrics do not include the bytes in the kernels, because for the process
# they are sent. So a limit on the outbox does not limit how far a slow reader lags
# behind. There are ways to know more, or to have less there:
#
# - `SIOCOUTQ`, an `ioctl` of the socket, says what the peer has not acknowledged. This
#   server asks it to tell a slow reader from a dead one. `TCP_INFO` says that and more:
#   round trips, retransmissions, the window.
# - `TCP_NOTSENT_LOWAT` makes a socket refuse more while so many bytes are not even
#   sent. The buffer may still grow with what is on its way, so a fast reader far away
#   loses nothing. This server does not use it.
# - `SO_SNDBUF`, here `send_buffer`, is a bound that always holds, and has a price: it
#   ends the growth for that connection. At 100 ms of round trip, 64 KB at a time are at
#   most 640 KB a second, however fast the line is.
#
# ## Run: latency that looks perfect
#
# The mistake `await-in-the-loop` waits for each member in turn. Five members read, one
# has stopped reading, and a publisher sends 150 messages.

# %%
for name, options in {
    "right": {},
    "await-in-the-loop": {"mistake": "await-in-the-loop"},
}.items():
    print(f"{name:18} {await latencies('backpressure', **options)}")

# %% [markdown]
# Percentiles are computed from the messages that arrived, and a message that never
# arrived has no latency. Nobody would find the broken server by its percentiles: what
# it delivered before it stopped, it delivered quickly. Only the share of arrived
# messages tells the two apart, so every percentile needs it beside it.
#
# ## Exercise: drop the oldest
#
# `waiting` is a list of `(seq, size)`, oldest first; `message` is the next one. At most
# `limit` bytes may wait: add the message, then drop the oldest messages until the rest
# fits. Return the new list and the gap: `(first, last)` of the dropped seqs, both
# inclusive, or `None` if nothing was dropped.
#
# <details><summary>Hint</summary>
#
# Append first. Then, `while` the sum of the sizes is more than `limit`, pop from the
# front and note the seq.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def drop_oldest(waiting: list, message: tuple, limit: int) -> tuple:
#     waiting, lost = [*waiting, message], []
#     while sum(size for _, size in waiting) > limit:
#         lost.append(waiting.pop(0)[0])
#     return waiting, (lost[0], lost[-1]) if lost else None
# ```
#
# </details>


# %% tags=["exercise"]
def drop_oldest(waiting: list, message: tuple, limit: int) -> tuple:
    # Four lines.
    ...


# %%
check(drop_oldest)

# %% [markdown]
# ## Build: your own outbox
#
# Now write the part, with the policy `drop-newest`: what does not fit any more is lost.
# A server makes one outbox for each connection, and calls
#
# - `deliver(chunk)` with a room's messages. `chunk.data` is their frames, ready to be
#   written; `chunk.singles()` gives one chunk for each message, with `room`, `first`
#   and `last` (both are its seq) and `data`;
# - `control(frame)` with an answer to this client, which is never dropped;
# - `paused()` when the socket has become full, `resumed()` when it has taken all;
# - `waiting()`, which returns the bytes that wait for the socket in this process.
#
# A client is told of what it lost (`gap`), in the place where it is missing: before
# every message and every answer that came later.
#
# The server sets the transport's limit to zero: from the first byte that the kernel
# does not take, `connection.paused` is true. What else your class needs:
# `transport.write(data)` and `transport.get_write_buffer_size()`;
# `connection.taken()`, a number that grows when the peer takes bytes;
# `connection.loop`, the event loop, which has `call_later`;
# `connection.cut(TOO_SLOW)` for a peer that took none for `patience` seconds; and
# `metrics.drops`, to count each message that is lost.
#
# <details><summary>Hint</summary>
#
# Begin without losses: `deliver` and `control` write if the socket is not paused, and
# else append to the queue; `resumed` writes from the queue while the socket is not
# paused. Then the limit: once a room has lost a message, let it lose all that follow,
# and remember the first and the last of them. `resumed` appends the notice to the queue
# before it writes, and `control` appends it before an answer that has to wait. At last
# the timer: `connection.loop.call_later(self.patience, self.look)` in `paused`,
# `cancel()` in `resumed`.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# from collections import deque
#
# from labserver.contract import messages, wire
# from labserver.contract.closing import TOO_SLOW
#
#
# def notice(connection, room: str, first: int, last: int) -> bytes:
#     """Return the frame that tells of a loss."""
#     gap = messages.gap(room, first, last, "slow")
#     return wire.chunk(connection.variant, room, [gap]).data
#
#
# class MyOutbox:
#     def __init__(self, connection, metrics, settings) -> None:
#         self.connection, self.metrics = connection, metrics
#         self.transport = connection.transport
#         self.limit = settings.outbox_limit  # bytes
#         self.patience = settings.stuck_timeout  # seconds
#         self.queue = deque()  # frames that wait
#         self.size = 0  # bytes in the queue
#         self.lost = {}  # by room: the first and the last message that is lost
#
#     def deliver(self, chunk) -> None:
#         if not self.connection.paused:
#             self.transport.write(chunk.data)
#             return
#         for message in chunk.singles():
#             fits = self.waiting() + len(message.data) <= self.limit
#             if fits and message.room not in self.lost:
#                 self.hold(message.data)
#             else:
#                 first, _ = self.lost.get(message.room, (message.first, 0))
#                 self.lost[message.room] = first, message.last
#                 self.metrics.drops += 1
#
#     def control(self, frame: bytes) -> None:
#         if not self.connection.paused:
#             self.transport.write(frame)
#         elif self.size > 2 * self.limit:  # it asks and asks, and does not read
#             self.connection.end(TOO_SLOW)
#         else:
#             self.tell()
#             self.hold(frame)
#
#     def hold(self, data: bytes) -> None:
#         self.queue.append(data)
#         self.size += len(data)
#
#     def tell(self) -> None:
#         for room, (first, last) in self.lost.items():
#             self.hold(notice(self.connection, room, first, last))
#         self.lost.clear()
#
#     def waiting(self) -> int:
#         return self.size + self.transport.get_write_buffer_size()
#
#     def paused(self) -> None:
#         self.taken = self.connection.taken()
#         self.timer = self.connection.loop.call_later(self.patience, self.look)
#
#     def look(self) -> None:
#         if self.connection.taken() > self.taken:
#             self.paused()
#         else:
#             self.connection.cut(TOO_SLOW)
#
#     def resumed(self) -> None:
#         self.timer.cancel()
#         self.tell()
#         while self.queue and not self.connection.paused:
#             data = self.queue.popleft()
#             self.size -= len(data)
#             self.transport.write(data)
# ```
#
# </details>

# %% tags=["build"]
from collections import deque

from labserver.contract import messages, wire
from labserver.contract.closing import TOO_SLOW


def notice(connection, room: str, first: int, last: int) -> bytes:
    """Return the frame that tells of a loss."""
    gap = messages.gap(room, first, last, "slow")
    return wire.chunk(connection.variant, room, [gap]).data


class MyOutbox:
    def __init__(self, connection, metrics, settings) -> None:
        self.connection, self.metrics = connection, metrics
        self.transport = connection.transport
        self.limit = settings.outbox_limit  # bytes
        self.patience = settings.stuck_timeout  # seconds
        self.queue = deque()  # frames that wait
        self.size = 0  # bytes in the queue
        self.lost = {}  # by room: the first and the last message that is lost

    def deliver(self, chunk) -> None: ...

    def control(self, frame: bytes) -> None: ...

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def waiting(self) -> int: ...


# %%
await probe(MyOutbox)

# %% [markdown]
# ## Mistakes

# %%
await compare("backpressure", "dropped-in-silence")

# %%
await mistakes("backpressure")

# %% [markdown]
# ## Load
#
# This runs healthy and slow readers together. Run it also against a server with
# `--without backpressure`:
#
#     locust -f loadtests/slow_readers.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# All of this is one process. Clients on a second process do not hear those on the
# first. Next: **6 · Beyond one process**.
