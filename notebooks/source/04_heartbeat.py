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
# **Promise:** a dead peer is gone within two intervals. · *about 15 minutes*
#
# A laptop lid closes, a phone enters a tunnel. No goodbye is sent, and the connection
# looks as it did before. This chapter shows how long that lasts, and what ends it.

# %%
from labserver.notebook import (
    check,
    compare,
    curves,
    expected,
    mistakes,
    my_guess,
    show,
    vanished,
)
from labserver.stages import heartbeat

# %% [markdown]
# ## Break: forty peers vanish at stage 3
#
# Forty clients in a room, connected through a proxy that can break the network
# (`labserver faults` is the same on the command line). It freezes: both sides stay
# connected, nothing flows, and nobody is told. How many does the server notice?

# %%
print(await vanished("rooms", seconds=1.5))

# %% [markdown]
# And they would be tomorrow. TCP notices a dead peer only when something it sent stays
# unacknowledged, and then tries again for many minutes.
#
# ## Predict
#
# The next server pings everyone once a second, and ends who does not answer. After how
# many seconds will the **last** of the forty be gone? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The whole stage. Note what it does not do: it does not wait for anything. A dead
# peer's buffer may be full, and whoever waits for it waits forever; `cut` ends in
# `transport.abort()`.

# %%
show(heartbeat)

# %% [markdown]
# ## Run: pings that are spread, and pings in one sweep
#
# The same forty with a heartbeat of one second. The stage pings each peer at a moment
# of its own. Its mistaken twin has one timer that sweeps over all of them.

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
# Each peer is pinged at a random moment of the interval and judged three quarters of an
# interval later. So the first goes after 0.75 s, the last before 1.75 s, and between
# them the share grows evenly: that is the predicted line. It is not fitted.

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
# The sweep is not slower, it is a stroke: all pings, all pongs and all goodbyes in one
# turn of the loop, once an interval. With forty nobody sees it; with forty thousand it
# is a latency spike that repeats for ever.
#
# ## Run: the library's keepalive
#
# `websockets` has a keepalive of its own, and it works, as long as the peer's buffers
# have room. In a busy room they fill. Then the ping waits behind what is unsent, and
# the timeout starts behind the ping. Three peers vanish while the room talks:

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
# Four intervals, and nobody noticed; nor would they after an hour. That is why the
# stage does not wait for anything and ends in `transport.abort()`.
#
# ## Exercise: who is dead?
#
# Each peer has three times, in seconds: when it was last `pinged`, when its last pong
# came (`ponged`), and when it last sent anything (`seen`). Return the names of the
# dead: those whose ping is at least `patience` old and was followed by no sign of life.
#
# <details><summary>Hint</summary>
#
# Any frame is a sign of life, not only a pong. And look at everybody: there may be more
# than one.
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
# ## Mistakes

# %%
await compare("heartbeat", "sweep-returns")

# %%
await mistakes("heartbeat")

# %% [markdown]
# ## Load, and the price
#
# Detection time is bought with pings. At the default of 25 s, a dead peer is gone
# within 50 s, and ten thousand clients cost 400 pings a second. What the idle crowd
# costs, on the last stage:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# A peer that answers every ping but reads slowly is alive, and its messages pile up in
# the server's memory. Next: **5 · Backpressure**.
