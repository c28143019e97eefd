# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8 · When not to use WebSockets
#
# **Promise:** you choose a transport by what it costs and what it cannot do. ·
# *about 15 minutes*
#
# A WebSocket is two ways, and few pages need two. The same server answers over plain
# HTTP on a second port: a stream of server-sent events, a long poll, a POST. Same
# rooms, same tokens, same cursor.

# %%
from labserver.http import sse
from labserver.notebook import (
    bars,
    check,
    compare,
    decision,
    idle_cost,
    my_guess,
    publishing,
    show,
    three_ways,
)

# %% [markdown]
# ## Break: cut everybody off, at stage 6
#
# Three listeners of one room, one on each transport, each behind a network that takes
# 20 ms each way. In the middle of 25 messages the network is gone for 0.4 seconds.
# There is no history yet.

# %%
for name, heard in (await three_ways(stage="broker", outage=0.4)).items():
    print(f"{name:13} missed {heard.missed(25)} of 25")

# %% [markdown]
# An `EventSource` comes back by itself. That is not the same as missing nothing.
#
# ## Predict
#
# Each message is about 200 bytes on a WebSocket. How many bytes, both ways together,
# does one cost a listener that polls? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# A listener on an event stream is a member like any other: its response's body stands
# where a connection has its transport, so the outbox of chapter 5 bounds it, too.

# %%
show(sse)

# %% [markdown]
# ## Run: the same outage, with a history
#
# The id of an event is `epoch:seq`. A browser sends the newest as `Last-Event-ID` when
# it comes back; a poll names it in its URL; a WebSocket in `join`.

# %%
for name, heard in (await three_ways(outage=0.4)).items():
    print(f"{name:13} missed {heard.missed(25)} of 25")

# %% [markdown]
# ## Observe: what a message costs
#
# No outage now: one message every 30 ms, which is less than the network's round trip.
# TCP's own bytes and TLS are not counted; headers are those of a plain client, and a
# browser sends several times as many.

# %% tags=["picture"]
runs = await three_ways(every=0.03)
total = {name: (heard.up + heard.down) / 25 for name, heard in runs.items()}
bars(
    {
        "bytes a message": total,
        "half came within, ms": {name: heard.typical for name, heard in runs.items()},
        "requests": {name: heard.requests for name, heard in runs.items()},
    },
    title="One listener, 25 messages, 20 ms each way: what each transport takes",
)

# %%
compare(my_guess, total["long poll"], "bytes a message by long poll")

# %% [markdown]
# Once a stream stands, it is as quick as a WebSocket: both wait for one way of the
# network. A poll that has just been answered is on its way back when the next message
# comes; that one waits, and shares the next answer. So the busier a room is, the later
# a message comes by poll, and the cheaper.
#
# ## Observe: what waiting costs
#
# Three hundred listeners of each kind, in a room where nobody speaks.

# %%
idle = await idle_cost()
bars(
    {"kB of server memory a listener": idle},
    title="What one idle listener costs the server",
    height=1.6,
)

# %% [markdown]
# A request keeps an HTTP server's state: parser, headers, a task, generators. A
# WebSocket's handshake is over, and its state was let go of.
#
# ## Observe: what speaking costs
#
# Twelve messages, each sent when the one before is acknowledged: in a frame; by POST on
# one connection; by POST on a new connection each time.

# %%
spoken = await publishing()
bars(
    {
        "bytes a message, both ways": {n: each.bytes for n, each in spoken.items()},
        "ms until acknowledged": {n: each.typical for n, each in spoken.items()},
    },
    title="One publisher, 12 messages, 20 ms each way",
)

# %% [markdown]
# ## Observe, and decide
#
# From what was measured above:

# %%
decision(runs, idle, spoken)

# %% [markdown]
# What this machine cannot show: a proxy that buffers a response breaks streams and not
# polls; over HTTP/1.1 a browser allows six connections to a host, streams included, so
# a seventh tab waits (RFC 9113 ends that); some networks let only GET and POST
# through.
#
# ## Exercise: what to replay
#
# A client names the newest id it has, as `epoch:seq`. The room is in `epoch` and keeps
# the seqs `oldest` to `newest`. Return the seqs to replay, a list; or `None` when the
# client must be told that something is missing.
#
# <details><summary>Hint</summary>
#
# `last_id.rpartition(":")` splits at the last colon. Who has `oldest - 1` misses
# nothing that is gone.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def to_replay(last_id: str, epoch: str, oldest: int, newest: int) -> list | None:
#     named, _, seq = last_id.rpartition(":")
#     if named != epoch or not oldest - 1 <= int(seq) <= newest:
#         return None
#     return list(range(int(seq) + 1, newest + 1))
# ```
#
# </details>


# %% tags=["exercise"]
def to_replay(last_id: str, epoch: str, oldest: int, newest: int) -> list | None:
    # Four lines.
    ...


# %%
check(to_replay)

# %% [markdown]
# ## Mistakes
#
# The promise of a replay is the room's, not the transport's, and so are the ways to
# break it: those of chapter 7, such as an epoch that is not compared.

# %%
await compare("resume", "no-epoch")

# %% [markdown]
# ## Load
#
# The load tests speak WebSocket:
#
#     locust -f loadtests/fanout.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# To see a stream with your own eyes:
#
#     labserver serve --sse-port 8081
#     curl -N -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8081/rooms/lobby
#
# ## What still breaks
#
# All figures here are of one listener, or of three hundred that sleep. What happens
# under load, and whether a figure can be believed: **9 · Load testing honestly**.
