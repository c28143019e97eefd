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
# **Promise:** a slow reader hurts only itself. · *about 20 minutes*
#
# A reader on a train takes what its network gives. What it does not take must wait
# somewhere, or be lost. This chapter finds out where it waits.

# %%
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
    show,
)
from labserver.stages import backpressure

# %% [markdown]
# ## Break: one reader stops at stage 4
#
# Two members: `ann` reads everything, the other has stopped reading. Ann publishes 8 MB
# in messages of 32 kB, about 0.4 MB at a time, and waits each time until she
# has heard herself.

# %%
before = await flood("heartbeat")
print(before)
print(f"the server's memory grew by {before.grown:.1f} MB")

# %% [markdown]
# For one reader. Ann noticed nothing, and her latency would look perfect in any
# measurement, until the process dies for everyone.
#
# ## Predict
#
# How many megabytes can be on their way to a reader that takes nothing, before the
# server's process holds a single byte for it? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The whole stage. While the socket takes everything, the cost is one test at the head
# of `deliver`. All else is for readers in trouble.

# %%
show(backpressure)

# %% [markdown]
# ## Run: every policy
#
# At stage 5 at most 1 MiB may wait for one reader. What then? Four answers, and the
# stage before beside them. No policy keeps a reader that takes not one byte: after
# `stuck_timeout`, here one second, it is cut off.

# %%
runs = {"stage 4": await flood("heartbeat")}
runs |= await policies("disconnect", "drop-newest", stuck_timeout=1)

# %%
runs |= await policies("drop-oldest", "conflate", stuck_timeout=1)
for name, run in runs.items():
    print(f"{name:12} {run}")

# %% [markdown]
# ## Observe: what the process holds

# %% tags=["picture"]
curves(
    {
        "stage 4": (runs["stage 4"].published, runs["stage 4"].process),
        "drop-oldest": (runs["drop-oldest"].published, runs["drop-oldest"].process),
        "disconnect": (runs["disconnect"].published, runs["disconnect"].process),
    },
    title="One reader has stopped: what the server's process holds for it",
    x="published, MB",
    y="held, MB",
)

# %% [markdown]
# The default is `disconnect` (close code 4409): with a history, chapter 7, the client
# comes back and gets what it missed. Dropping suits what is soon outdated, such as
# prices and cursors; then the client is told with a `gap`, so that it never takes half
# for whole. `conflate` keeps the newest message of each room only.
#
# ## Observe: where four megabytes hide
#
# Between a message that was written and one that was read lie four places: the
# application's outbox, asyncio's buffer in the same process, the send queue of the
# server's kernel, the receive queue of the peer's. Linux says what lies in the last
# two (`/proc/net/tcp`); the process knows the first two. The second run asks for small
# kernel buffers.

# %%
wide = runs["stage 4"]
small = await flood("heartbeat", send_buffer=65536, receive_buffer=65536)
places = {
    name: (
        run.published,
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
    x="published, MB",
    y="MB",
)

# %%
hidden = wide.kernel[-1] + wide.peer[-1]
compare(my_guess, hidden, "MB in kernels (0: this machine has no /proc)")

# %% [markdown]
# No metric of a server shows what the kernels hold: to the process it is sent. So a
# bound on the outbox is not a bound on how late a slow reader is. `send_buffer` is.
#
# ## Run: latency that looks perfect
#
# The mistake `await-in-the-loop` waits for each member in turn. Five members read, one
# has stopped, and one publishes 150 messages.

# %%
for name, options in {
    "right": {},
    "await-in-the-loop": {"mistake": "await-in-the-loop"},
}.items():
    print(f"{name:18} {await latencies('backpressure', **options)}")

# %% [markdown]
# Percentiles are made from what arrived. The messages that never came have no latency,
# and so the broken server may show the better figure: completeness belongs beside every
# percentile.
#
# ## Exercise: drop the oldest
#
# `waiting` is a list of `(seq, size)`, oldest first; `message` is one more. Not more
# than `limit` bytes may wait: drop from the front until it fits. Return what waits now,
# and the gap: `(first, last)` of what was lost, both inclusive, or `None`.
#
# <details><summary>Hint</summary>
#
# Append first. Then, `while` the sizes sum to more than `limit`, pop from the front and
# note the seq.
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
# ## Mistakes

# %%
await compare("backpressure", "dropped-in-silence")

# %%
await mistakes("backpressure")

# %% [markdown]
# ## Load
#
# A crowd with slow readers in it; run it against `--without backpressure`, too:
#
#     locust -f loadtests/slow_readers.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# All of this is one process. A second one is a second world. Next: **6 · Broker**.
