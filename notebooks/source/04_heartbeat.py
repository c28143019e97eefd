# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · Heartbeat
#
# **Promise:** a dead peer is gone within two intervals. · *about 15 minutes*
#
# A laptop lid closes, a phone enters a tunnel. No goodbye is sent, and the connection
# looks as it did before. This chapter shows how long that lasts, and what ends it.

# %%
from labserver import heartbeat
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
# ## Break: forty peers vanish at stage 3
#
# `silent` opens sockets, enters a room and never reads or writes again. Their kernel
# still acknowledges what TCP sends, as a proxy or a sleeping phone's network may. We
# watch the number of open connections for two and a half seconds.

# %%
CROWD = 40

async with running("rooms") as server, silent(server, CROWD, room="lobby"):
    before = await watch(server, "labserver_connections", seconds=2.5)
print(f"after {before.times[-1]:.1f} s: {before.values[-1]:g} of {CROWD} still there")

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
# ## Run
#
# The same crowd, and one living peer, `ann`, who says nothing but whose library answers
# pings.

# %%
async with running("heartbeat", heartbeat_interval=1) as server:
    async with connected(server, "ann", "lobby") as ann:
        async with silent(server, CROWD, room="lobby"):
            after = await watch(server, "labserver_connections", seconds=2.5)
        ann_lives = await ann.ask(type="ping")
    dead = await server.metric("labserver_peers_dead_total")
print(f"ended as dead: {dead:g}; ann answers: {ann_lives['type']}")

# %% [markdown]
# ## Observe

# %%
curves(
    {
        "rooms": (before.times, before.values),
        "heartbeat": (after.times, after.values),
    },
    title="Connections left after forty peers vanished (one peer lives)",
    x="seconds since they vanished; the interval is 1 s",
    y="open connections",
    steps=True,
    marks={"two intervals": 2.0},
)

# %%
compare(my_guess, after.first_below(2) or float("nan"), "seconds")

# %% [markdown]
# Each peer is pinged at a random moment of the interval and judged three quarters of an
# interval later. So the first goes after 0.75 s, the last before 1.75 s, and the pings
# of a crowd never come in one burst. (The clock here starts when the first sample is
# taken, a little after the last of the forty came.)
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
# ## The price
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
