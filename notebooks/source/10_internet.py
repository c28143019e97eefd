# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · From one laptop to the internet
#
# **Promise:** a number of servers that can be argued with. · *about 25 minutes*
#
# How many servers do a million connections need? Nobody can try it here. What can be
# done: measure what each kind of work costs, check that the sum is right for a load
# that was not used to find it, and only then carry it further. And say where it stops
# being true.

# %%
from labserver.notebook import (
    Demand,
    causes,
    check,
    comeback,
    compare,
    entries,
    fit,
    idle,
    my_guess,
    plan,
    predicted,
    returns,
    show,
    this_machine,
)
from labserver.notebook.ledger import Costs

# %% [markdown]
# ## Break: one figure, multiplied
#
# The usual way. Two replicas on one Redis, 100 members on the second, somebody
# publishes on the first: processor time, divided by deliveries, times what is wanted.
# A million connections in rooms of 100, one message a second in each room: a million
# deliveries a second.

# %%
(entry,) = await entries((100, 200, 1))
naive = (entry.first + entry.second) / (entry.published * entry.members)
print(f"{naive * 1e6:.1f} us a delivery, so {1e6 * naive:.0f} cores")

# %% [markdown]
# It is the right number for one room on one replica, and nothing says what changes when
# there are fifty replicas.
#
# ## Predict
#
# Clients are spread over the replicas at random, as a load balancer does. Cores may be
# 60 % busy, and a third of the fleet may be lost. How many replicas of one core? Set a
# number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read: the model
#
# The cost of a load is a sum. Each term is a count times the cost of one.

# %%
show(Costs, predicted, fit)

# %% [markdown]
# ## Run: a ledger of this machine
#
# Short runs of (members, messages a second at most, replicas that hear it, others to
# whom Redis sends it), one message under way at a time. That is the expensive case:
# under more load the server joins what is due in the same moment (chapter 3), and a
# delivery costs less.

# %%
runs = await entries(
    (1, 20, 1), (1, 500, 1), (100, 100, 1), (100, 500, 1), (1, 500, 2, 16)
)

# %% [markdown]
# And a crowd that says nothing: handshakes, heartbeats, memory.

# %%
quiet = await idle()
costs = fit(runs, quiet)
print(costs)

# %% [markdown]
# A model that fits what it was made from shows nothing. So the check is a load that it
# has not seen: fifty members, a new cluster, two replicas that hear.

# %%
(unseen,) = await entries((50, 200, 2))
measured, expected = unseen.first + unseen.second, predicted(costs, unseen)
print(f"predicted {expected * 1000:.0f} ms of processor time, ", end="")
print(f"measured {measured * 1000:.0f} ms: {(expected / measured - 1) * 100:+.0f} %")

# %% [markdown]
# That error is the least that everything below is wrong by. On a busy machine it may be
# a third; half a second is short, and a fit to five runs forgives no outlier.
#
# ## Observe: a million connections

# %%
costs = await this_machine()  # what was fitted above
spread, together = Demand(), Demand(together=True)
fleets = {"spread at random": plan(costs, spread), "by room": plan(costs, together)}
causes(fleets)

# %%
compare(my_guess, fleets["spread at random"].replicas, "replicas")

# %%
for name, fleet in fleets.items():
    print(f"{name}: {fleet}")
print(f"to the clients: {spread.bandwidth / 1e9:.1f} Gbit/s, in either case")

# %% [markdown]
# Spread at random, a room of 100 has members nearly everywhere: each message is sent by
# Redis to most of the replicas, and each takes it up for one or two members. More
# replicas hear more, and so need more replicas. That cost was invisible in the run with
# one replica. *By room*, a router sends the members of a room to the same replica: each
# message is heard once. Real clients are in several rooms, and a room may outgrow its
# replica; truth lies between the two bars.
#
# ## Observe: a zone is lost
#
# The fleet by room, and a third of it vanishes. Each replica that is left is asked for
# its share of the handshakes, beside its work. The clients are those of chapter 7, with
# full jitter from 0.5 s on, and wait five seconds for an answer. TLS is not in the
# ledger; a millisecond for each handshake is assumed. By simulation:

# %%
costs, demand = await this_machine(), Demand(together=True)
fleet = plan(costs, demand)
left = fleet.replicas * 2 // 3
capacity = (1 - sum(fleet.cores.values()) / left) / (costs.handshake + 0.001)
clients = round(demand.connections / 3 / left)
ways = {
    "takes up all": comeback(clients, capacity, admission=False),
    "admission": comeback(clients, capacity, admission=True),
    "admission, first wait up to 30 s": comeback(
        clients, capacity, admission=True, first=30
    ),
}
print(f"{clients:,} clients a replica, {capacity:,.0f} handshakes a second")
for name, way in ways.items():
    print(f"{name:33} {way}")

# %% tags=["picture"]
returns(ways, capacity)

# %% [markdown]
# Who takes up every handshake works through a queue of clients who have gone: the work
# is done in vain, and they come again. Processor time is not missing, it is spent on
# the wrong ones; when the queue is long enough, this never ends by itself. Whoever
# refuses at once (`--admission-rate`, a 503 with `Retry-After`) does as much as it can
# all the time. A longer first wait costs the single lost connection some seconds, and
# spares most of the refusals. The headroom decides how soon all are back: capacity is
# what is left of a core, divided by the cost of a handshake. (The model takes refusals
# for free, and a handshake for somebody who has gone for as dear as any.)
#
# ## Where it stops being true
#
# - **Loopback.** No loss, no delay, no interrupts of a network card: real packets cost
#   the kernel more. *Too few replicas.*
# - **TLS.** A millisecond for a handshake is a guess, between resumed ones and large
#   keys; and each byte costs a little. *Too few replicas.*
# - **One message at a time.** Under load, messages of a room are joined in one write.
#   *Too many replicas, by several times in hot rooms.*
# - **Memory.** Only this process is counted. The kernel has some kilobytes for each
#   socket, and megabytes for one that does not read (chapter 5). *Too little.*
# - **Noisy cores.** Two cores shared by clients, servers and Redis: caches are cold.
#   *Too many.* A virtual core in a cloud is half a core. *Too few.*
# - **Limits that are not processors:** files, ports behind NAT, connections that a
#   load balancer tracks, packets a second of one network card. *Not in it at all.*
# - **Redis.** Its cost is added up as if rooms could be dealt out evenly (they can, in
#   a cluster; one hot room cannot), and its replicas are not counted. *Too few.*
# - **Averages.** Rooms differ, by far. One room of 100,000 is a case of its own. *Too
#   few.*
#
# So the result is a range of about a factor two, and a list of causes in the order of
# their weight. The list is the better half: it says what to measure next.
#
# ## Exercise: how many replicas
#
# `publishes` messages a second go to rooms of `members`; one delivery takes `cost`
# seconds of a core. A core may be half busy (0.5), also while one of `zones` zones is
# lost, and each zone has as many replicas as any other. Return the number of replicas.
#
# <details><summary>Hint</summary>
#
# Cores at work first, then replicas at half load, then what each of the zones that are
# left must have, rounded up.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# from math import ceil
#
#
# def replicas(publishes: float, members: int, cost: float, zones: int) -> int:
#     busy = publishes * members * cost
#     needed = ceil(busy / 0.5)
#     return ceil(needed / (zones - 1)) * zones
# ```
#
# </details>


# %% tags=["exercise"]


def replicas(publishes: float, members: int, cost: float, zones: int) -> int:
    # Three lines.
    ...


# %%
check(replicas)

# %% [markdown]
# ## Load
#
# `make ledger` measures the ledger in earnest, stage by stage, in five minutes; `make
# load` has the storm. A crowd of your own, with as many as your machine takes:
#
#     locust -f loadtests/idle.py --headless --host ws://127.0.0.1:8080 -u 1000 -t 30s
#
# ## What still breaks
#
# The model. It is a tool for an argument, until a second machine has been measured, and
# a third. The seven promises hold at any size, because none of them is about speed; how
# many servers it takes to keep them is found out by measuring, never by reading.
