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
# **Promise:** an estimate of the number of servers, with all its assumptions. · *about
# 25 minutes*
#
# How many servers do a million connections need? You cannot try it on a laptop. But you
# can measure what each kind of work costs, check the model with a load that it was not
# fitted to, and only then extrapolate. You should also say where the model stops being
# true.

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
# The usual estimate multiplies one figure. We run two replicas on one Redis, with 100
# members on the second, and publish on the first. We divide the CPU time by the number
# of deliveries, and multiply it by the wanted number of deliveries. A million
# connections in rooms of 100, with one message a second in each room, are a million
# deliveries a second.

# %%
(entry,) = await entries((100, 200, 1))
naive = (entry.first + entry.second) / (entry.published * entry.members)
print(f"{naive * 1e6:.1f} us a delivery, so {1e6 * naive:.0f} cores")

# %% [markdown]
# The number is right for one room on one replica. It does not say what changes with
# fifty replicas.
#
# ## Predict
#
# A load balancer spreads the clients over the replicas at random. A core may be at most
# 60 % busy, also when a third of the replicas is lost. How many replicas of one core do
# we need? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read: the model
#
# The cost of a load is a sum. Each term is a number of operations times the cost of
# one.

# %%
show(Costs, predicted, fit)

# %% [markdown]
# ## Run: a ledger of this machine
#
# We measure short runs. The numbers of each run are: members, messages a second at
# most, replicas that receive the messages, and other subscribers in Redis. Only one
# message is in flight at a time. That is the expensive case: under more load the server
# joins the messages of one turn of the event loop (chapter 3), and a delivery costs
# less.

# %%
runs = await entries(
    (1, 20, 1), (1, 500, 1), (100, 100, 1), (100, 500, 1), (1, 500, 2, 16)
)

# %% [markdown]
# Then we measure handshakes, heartbeats and memory with idle clients.

# %%
quiet = await idle()
costs = fit(runs, quiet)
print(costs)

# %% [markdown]
# It proves little that a model fits the data that it was fitted to. So we check it with
# a different load: fifty members, a new cluster, and two replicas that receive the
# messages.

# %%
(unseen,) = await entries((50, 200, 2))
measured, expected = unseen.first + unseen.second, predicted(costs, unseen)
print(f"predicted {expected * 1000:.0f} ms of processor time, ", end="")
print(f"measured {measured * 1000:.0f} ms: {(expected / measured - 1) * 100:+.0f} %")

# %% [markdown]
# Everything below is wrong by at least that error. On a busy machine it may be a third,
# because half a second is short, and one outlier among five runs spoils the fit.
#
# ## Observe: a million connections

# %%
costs = await this_machine()  # the costs fitted above
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
# When clients are spread at random, a room of 100 has members on nearly every replica.
# Redis sends each message to most of the replicas, and each replica receives it for
# only one or two members. So every added replica adds work, and with it the need for
# more replicas. The run with one replica did not show that cost. *By room* means that a
# router sends all members of a room to the same replica, so only one replica receives
# each message. Real clients are in several rooms, and a room may outgrow its replica,
# so the true number is between the two bars.
#
# ## Observe: a zone is lost
#
# We take the fleet *by room*, and a third of its replicas is lost. Each of the others
# gets its share of the handshakes in addition to its normal work. The clients reconnect
# as in chapter 7, with full jitter from 0.5 s on, and wait five seconds for an answer.
# TLS was not measured; we assume a millisecond for each handshake. The next cell
# simulates that:

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
# A server that accepts every handshake queues them. By the time it reaches a handshake
# in a long queue, the client has given up: the work is wasted, and the client comes
# again. When the queue is long enough, this never ends by itself. A server that refuses
# handshakes at once when there are too many (`--admission-rate`, a 503 with
# `Retry-After`) spends all its time on clients that still wait. A longer first wait
# avoids most of the refusals, but a client that loses only its own connection then
# waits some seconds for nothing. The free CPU time decides how soon all clients are
# back: capacity is the free part of a core, divided by the cost of a handshake. (In the
# model a refusal costs nothing, and a handshake of a client that has given up costs as
# much as any other.)
#
# ## Where it stops being true
#
# - **Loopback.** There is no loss, no delay and no network card: real packets cost the
#   kernel more. *The model gives too few replicas.*
# - **TLS.** A millisecond for a handshake is a guess: a resumed session takes less, a
#   large key more. Encrypting each byte costs a little, too. *Too few replicas.*
# - **One message at a time.** Under load, the messages of a room are joined in one
#   write. *Too many replicas; in busy rooms several times too many.*
# - **Memory.** Only the server's process is measured. The kernel adds some kilobytes
#   for each socket, and megabytes for a client that does not read (chapter 5). *Too
#   little memory.*
# - **Shared cores.** Clients, servers and Redis share this machine's cores and caches.
#   *Too many replicas.* A virtual core in a cloud is often half a physical core. *Too
#   few.*
# - **Limits other than CPU:** open files, ports behind NAT, connections that a load
#   balancer tracks, packets a second of one network card. *Not in the model.*
# - **Redis.** The model assumes that rooms are spread evenly over the nodes of a Redis
#   Cluster. One busy room cannot be spread, and the replicas of Redis itself are not
#   counted. *Too few nodes.*
# - **Averages.** Real rooms differ widely in size. One room of 100,000 members needs a
#   model of its own. *Too few replicas.*
#
# So the result is a range of about a factor of two, and a list of the causes, largest
# first. The list is the more useful part: it says what to measure next.
#
# ## Exercise: how many replicas
#
# `publishes` messages a second go to rooms of `members` members; one delivery takes
# `cost` seconds of a core. A replica has one core, which may be at most half busy
# (0.5), also while one of `zones` zones is lost. All zones have the same number of
# replicas. Return the total number of replicas.
#
# <details><summary>Hint</summary>
#
# First compute how many cores are fully busy, then how many replicas at half load, then
# how many of them each of the remaining zones must have, rounded up.
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
# `make ledger` measures these costs more precisely, stage by stage, in five minutes.
# `make load` includes a reconnect storm. This loads a server of your own with idle
# clients; use as many as your machine allows:
#
#     locust -f loadtests/idle.py --headless --host ws://127.0.0.1:8080 -u 1000 -t 30s
#
# ## What still breaks
#
# The model rests on one machine: treat its result as an estimate until you have
# measured a second machine, and a third. The seven promises hold at any size, because
# none of them is about speed. Only measurements can tell how many servers you need to
# keep them.
