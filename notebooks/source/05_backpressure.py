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
from labserver import backpressure
from labserver.notebook import (
    check,
    compare,
    connected,
    curves,
    running,
    show,
    silent,
    watch,
)

# %% [markdown]
# ## Break: one reader stops at stage 4
#
# Two members: `ann` reads everything, the other has stopped reading. Ann publishes
# 16 MB in messages of 32 kB, a quarter of a megabyte at a time, and waits each time
# until she has heard herself. We watch the server's memory.

# %%
MEMORY = "process_resident_memory_bytes"
MESSAGE = "x" * 32_000
STEPS, EACH = 64, 8  # 64 times 8 messages, 16 MB in all


async def flood(stage: str, **settings) -> dict:
    published, memory = [0.0], [0.0]
    async with (
        running(stage, message_rate_limit=0, **settings) as server,
        connected(server, "ann", "lobby") as ann,
        silent(server, room="lobby"),
    ):
        start = await server.metric(MEMORY)
        for step in range(1, STEPS + 1):
            await ann.publish("lobby", *[MESSAGE] * EACH)
            await ann.messages(step * EACH)
            published.append(step * EACH * len(MESSAGE) / 1e6)
            memory.append(max(await server.metric(MEMORY) - start, 0) / 1e6)
        later = await watch(server, "labserver_connections", seconds=1.5)
        dropped = await server.metric("labserver_outbox_drops_total")
    return {
        "curve": (published, memory),
        "ann": len(ann.payloads),
        "left": later.values[-1],
        "dropped": dropped,
    }


before = await flood("heartbeat")
print(f"ann got {before['ann']} of {STEPS * EACH} messages")
print(f"the server grew by {before['curve'][1][-1]:.1f} MB")
print(f"connections left: {before['left']:g}")

# %% [markdown]
# For one reader. Ann noticed nothing, and her latency would look perfect in any
# measurement, until the process dies for everyone. The first megabytes cost nothing:
# they lie in the kernel's buffers, where no application can see them.
#
# ## Predict
#
# The same at stage 5, where 1 MiB may wait for one reader and who needs more is
# disconnected. How many megabytes will the server grow by? Set a number, or leave
# `None`.

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
# ## Run
#
# Twice: with the policy `disconnect`, and with `drop-oldest`, which loses messages
# instead of the reader. No policy keeps a reader that takes not one byte: after
# `stuck_timeout`, here one second, it is cut off.


# %%
def tell(run: dict) -> None:
    print(f"ann got {run['ann']}, dropped for the other: {run['dropped']:g}, ", end="")
    print(f"connections left: {run['left']:g}")


disconnected = await flood("backpressure", outbox_policy="disconnect", stuck_timeout=1)
tell(disconnected)

# %%
dropping = await flood("backpressure", outbox_policy="drop-oldest", stuck_timeout=1)
tell(dropping)

# %% [markdown]
# ## Observe

# %%
curves(
    {
        "heartbeat (stage 4)": before["curve"],
        "drop-oldest": dropping["curve"],
        "disconnect": disconnected["curve"],
    },
    title="One reader has stopped: what the server keeps for it",
    x="published, MB",
    y="growth of the server's memory, MB",
)

# %%
compare(my_guess, disconnected["curve"][1][-1], "MB with `disconnect`")

# %% [markdown]
# The growth is more than the limit: messages on their way lie in memory too, and what
# Python has once taken from the system it seldom gives back. So the proof is a curve
# that stays flat, not one that falls.
#
# The default is `disconnect` (close code 4409): with a history, chapter 7, the client
# comes back and gets what it missed. Dropping suits what is soon outdated, such as
# prices and cursors; then the client is told with a `gap`, so that it never takes half
# for whole.
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
