# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Coming back
#
# **Promise:** a client that comes back misses nothing, or is told what it missed. ·
# *about 20 minutes*
#
# Every connection ends: tunnels, deploys, laptop lids. What counts is what a client
# knows after it came back.

# %%
from labserver.notebook import (
    absence,
    check,
    compare,
    connected,
    curves,
    losses,
    mistakes,
    modelled,
    my_guess,
    running,
    show,
    storm,
)
from labserver.stages import resume

# %% [markdown]
# ## Break: a short absence at stage 6
#
# Bob hears one message, goes, and five are said. Then he comes back and names the
# newest that he has, by epoch and number.

# %%
async with running("broker") as server:
    joined, replayed = await absence(server, 5)
print("recovered:", joined["recovered"], "· the room stands at", joined["seq"])
print("replayed: ", replayed)

# %% [markdown]
# The server is honest: `recovered` is false. But nothing can be done about it.
#
# ## Predict
#
# The next server keeps the newest 100 messages of a room. Bob is away for 160. How many
# of them does he get when he comes back? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The whole stage: it is short, because the broker keeps the messages, and the numbers
# are there since stage 3.

# %%
show(resume)

# %% [markdown]
# ## Run: cursors
#
# A cursor is an epoch and a seq: which numbering, and how far. The room has heard 120
# messages, and the server keeps the newest 100 of a room (the ring). Five ways to ask:

# %%
async with (
    running("resume", history_limit=100) as server,
    connected(server, "ann", "lobby") as ann,
    connected(server, "bob") as bob,
):
    await ann.publish("lobby", *range(120))
    await ann.messages(120)
    epoch = ann.of("joined")[0]["epoch"]
    cursors = {
        "two behind": {"epoch": epoch, "seq": 118},
        "older than the ring": {"epoch": epoch, "seq": 10},
        "another epoch": {"epoch": "yesterday", "seq": 118},
        "ahead of the room": {"epoch": epoch, "seq": 500},
        "none": None,
    }
    for name, cursor in cursors.items():
        before = len(bob.of("message"))
        joined = await bob.join("lobby", after=cursor)
        await bob.ask(type="leave", room="lobby")
        replayed = [message["seq"] for message in bob.of("message")[before:]]
        print(f"{name:20} recovered: {joined['recovered']!s:6} replayed: {replayed}")

# %% [markdown]
# The epoch is what makes a number mean something. When Redis lost its memory, the room
# counts from 1 again, and 118 is another message than yesterday.
#
# ## Run: loss against the length of the absence

# %%
away = [0, 20, 40, 60, 80, 100, 101, 120, 140, 160]
loss = {
    "broker": await losses("broker", away),
    "resume": await losses("resume", away, history_limit=100),
}

# %% [markdown]
# ## Observe

# %%
curves(
    {stage: (away, lost) for stage, lost in loss.items()},
    title="Either all of it or none: a history of 100 messages",
    x="messages published while away",
    y="messages that never arrived",
    points=True,
    marks={"history": 100},
)

# %%
compare(my_guess, away[-1] - loss["resume"][-1], "of 160 messages")

# %% [markdown]
# Beyond the history the two lines are one. A partial replay would look better in this
# picture and be worse: the client would show a list with a hole in it and not know.
# `recovered: false` makes it load the present state from elsewhere, as when it was
# opened first. So the length of the history is chosen from the absences that should
# cost nothing, such as a tunnel or a deploy.
#
# ## Run: a replica is killed, live
#
# Fifty clients are on one of two replicas when it is killed with SIGKILL; no goodbye.
# They go to the other one. Somebody speaks all the time. The first crowd waits as the
# lab's client does, a random part of half a second; the second half a second sharp.

# %%
with_jitter = await storm("full jitter")
print(with_jitter)

# %%
without = await storm("no jitter")
print(without)

# %% [markdown]
# ## Observe: two storms

# %% tags=["picture"]
curves(
    {
        "no jitter": without.counts(0.05),
        "full jitter": with_jitter.counts(0.05),
    },
    title="Fifty clients come back after their replica was killed",
    x="seconds since the kill",
    y="back, in each 0.05 s",
    steps=True,
    peaks=True,
)

# %% [markdown]
# Nobody missed a message, in either storm: that is the cursor's work. What jitter
# changes is the height of the peak, and half a cluster has no use for peaks. The same
# for ten thousand clients, computed, by the length of the outage:

# %%
for outage in (0, 2, 30):
    peaks = {
        name: modelled(name, outage=outage).peak()
        for name in ("no jitter", "full jitter")
    }
    print(f"outage of {outage:2} s, most that come back within 0.1 s: {peaks}")

# %% [markdown]
# The first delay alone decides the peak after a short outage, and the doubling flattens
# it after a long one. The rest is the server's: it admits so many handshakes a second
# (`admission_rate`) and sends the others away with `Retry-After`.
#
# ## Exercise: when to come back
#
# A server restarts, and ten thousand clients lose it in the same moment. Return the
# seconds to wait before attempt `attempt` (0 is the first): a uniform draw between 0
# and a ceiling, which starts at 0.5 s, doubles with each attempt and is at most 20 s.
# `draw()` returns a number from 0 to 1.
#
# <details><summary>Hint</summary>
#
# The ceiling first, with its cap; then the draw. And draw for attempt 0, too.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def delay(attempt: int, draw) -> float:
#     ceiling = min(20.0, 0.5 * 2**attempt)
#     return draw() * ceiling
# ```
#
# </details>


# %% tags=["exercise"]
def delay(attempt: int, draw) -> float:
    # Two lines.
    ...


# %%
check(delay)

# %% [markdown]
# ## Mistakes

# %%
await compare("resume", "replay-then-subscribe")

# %%
await mistakes("resume")

# %% [markdown]
# ## Load
#
# The last stage is the production server; this measures all of it at once:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Redis is one process now as the server was before; a history is bounded; a client that
# was away too long must load its state elsewhere. None of these is hidden from the
# client, and that is what the seven promises are about. `labserver stages` lists them,
# and `labserver cluster --replicas 3` runs all of them on three replicas.
