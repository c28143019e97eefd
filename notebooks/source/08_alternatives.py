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
# **Promise:** you can choose a transport by its costs and its limits. · *about 15
# minutes*
#
# A WebSocket carries messages both ways, and few pages need both. On a second port the
# same server speaks plain HTTP: streams of server-sent events, long polls, and POST.
# Rooms, tokens and cursors are the same.

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
# One room has three listeners, one on each transport. The network takes 20 ms each way.
# In the middle of 25 messages it is cut for 0.4 seconds. Stage 6 has no history yet.

# %%
for name, heard in (await three_ways(stage="broker", outage=0.4)).items():
    print(f"{name:13} missed {heard.missed(25)} of 25")

# %% [markdown]
# An `EventSource` reconnects by itself, but without a history it still misses messages.
# The poll misses the most, also without an outage: between an answer and the next
# request nobody listens, here for 40 ms, and what is published then is not kept for
# anybody. So polls need a history more than the others do.
#
# ## Predict
#
# A message takes about 200 bytes on a WebSocket. How many bytes, both ways together,
# does a message take by long poll? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# A listener on an event stream is a member of a room like any other. The body of its
# HTTP response takes the place of a connection's transport, so the outbox of chapter 5
# limits it, too.

# %%
show(sse)

# %% [markdown]
# ## Run: the same outage, with a history
#
# The id of an event is `epoch:seq`. When a browser reconnects, it sends its newest id
# as `Last-Event-ID`; a poll has the id in its URL, and a WebSocket client sends it in
# `join`.

# %%
for name, heard in (await three_ways(outage=0.4)).items():
    print(f"{name:13} missed {heard.missed(25)} of 25")

# %% [markdown]
# ## Observe: what a message costs
#
# Now there is no outage, and one message every 30 ms, which is less than the network's
# round trip. The bytes of TCP and TLS are not counted. The HTTP headers are those of a
# minimal client; a browser sends several times as many bytes.

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
# An open stream is as quick as a WebSocket: a message needs one way through the
# network. After an answer, a polling client must first send its next request. A message
# that is published meanwhile waits for that request, and shares the answer with others.
# So the busier a room is, the later a message arrives by poll, and the fewer bytes it
# takes.
#
# ## Observe: what an idle listener costs
#
# Three hundred listeners of each kind are in a room without messages.

# %%
idle = await idle_cost()
bars(
    {"kB of server memory a listener": idle},
    title="What one idle listener costs the server",
    height=1.6,
)

# %% [markdown]
# These are figures of two programs. A WebSocket of this server has freed the state of
# its handshake. Streams and polls are served by uvicorn and Starlette, which keep a
# parser, headers, a task and generators for each open request. The transport itself
# needs no more than a socket: a server that is made for streams would need less.
#
# ## Observe: what publishing costs
#
# A client publishes twelve messages, each after the previous one is acknowledged: in
# WebSocket frames, by POST on one connection, and by POST on a new connection each
# time.

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
# The table follows from the measurements above:

# %%
decision(runs, idle, spoken)

# %% [markdown]
# This machine cannot show three more differences. A proxy that buffers responses breaks
# streams, but not polls. Over HTTP/1.1 a browser opens at most six connections to a
# host, streams included, so a seventh tab waits; HTTP/2 (RFC 9113) has no such limit.
# Some networks let only plain GET and POST requests through.
#
# ## Exercise: what to replay
#
# A client sends the newest id that it has, as `epoch:seq`. The room's numbering is
# `epoch`, and it keeps the seqs `oldest` to `newest`. Return the list of seqs to
# replay, or `None` when the client must be told that messages are missing.
#
# <details><summary>Hint</summary>
#
# `last_id.rpartition(":")` splits at the last colon. A client that has `oldest - 1` has
# missed only messages that are still kept.
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
# The replay works the same on every transport, so the mistakes are those of chapter 7.
# One of them is to ignore the epoch.

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
# All figures here are of one listener, or of three hundred idle ones. The next chapter
# measures under load, and shows when a figure can be trusted. Next: **9 · Load testing
# honestly**.
