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
from dataclasses import replace
from statistics import median

from labserver.notebook import (
    LOADS,
    Demand,
    Load,
    about,
    causes,
    check,
    comeback,
    compare,
    entries,
    fits,
    hearing,
    idle,
    machine,
    middle,
    my_guess,
    plan,
    predicted,
    returns,
    show,
    this_machine,
)
from labserver.notebook.sizing.fitting import Costs, Curve, fit
from labserver.processes.arrivals import publish

# %% [markdown]
# ## Break: one figure, multiplied
#
# The usual estimate multiplies one figure. We run one replica with its Redis, and a
# room of 100 members in which a client publishes. We divide the CPU time by the number
# of deliveries, and multiply it by the wanted number of deliveries. A million
# connections in rooms of 100, with one message a second in each room, are a million
# deliveries a second.

# %%
(entry,) = await entries(Load(published=100, members=100, seconds=1))
naive = entry.replica / entry.deliveries
print(f"{naive * 1e6:.0f} us a delivery, so {about([1e6 * naive], 'cores')}")

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
# one. Two of the costs depend on a rate. A message that comes alone wakes the event
# loop, and finds cold caches. Where thousands come in a second, several of them share
# one turn of the loop. `Curve` has that cost at some rates, and interpolates between
# them.

# %%
show(Costs, Curve, predicted, fit)

# %% [markdown]
# ## Run: a ledger of this machine
#
# A cost holds for the load at which it was measured. So we measure at the loads that a
# replica of the fleet will have: it hears some hundred to some thousand messages a
# second, and does everything else beside that. The messages that it hears come from a
# process that publishes straight into Redis, as other replicas do, at Poisson due
# times: independent senders keep no distance.

# %%
show(publish)

# %% [markdown]
# These are the runs of the ledger:

# %%
for load in LOADS:
    print(f"the replica {load}")

# %%
one = await entries(*LOADS)

# %% [markdown]
# A figure that was measured once says nothing about its error. So we measure again,
# twice, each time on a new server.

# %%
two = await entries(*LOADS)

# %%
three = await entries(*LOADS)

# %% [markdown]
# Then we measure handshakes, heartbeats and memory with idle clients, in three rounds,
# and fit the costs of each round.

# %%
rounds = fits([one, two, three], await idle())
late = max(each.late for entries in (one, two, three) for each in entries)
print(machine())
print(f"messages were published up to {late * 1000:.1f} ms late (medians)")
print(f"the median of {len(rounds)} rounds, {middle(rounds)}")

# %% [markdown]
# Look at the delay. Where other programs have the cores, messages are published late
# and in groups. Groups are cheap, so every figure below is then too low. With a
# millisecond or two it is no matter; with ten, close the other programs and run the
# cells again.
#
# It proves little that a model fits the data that it was fitted to. So we check it with
# loads that it was not fitted to, on a new server: first the cost of hearing alone, at
# a rate between those of the runs and three times, then all terms together.

# %%
rounds = await this_machine()  # the costs fitted above
*unseen, mixed = await entries(
    *3 * [Load(heard=5000)], Load(heard=1500, published=200, members=50)
)
for name, runs in (("hearing alone", unseen), ("all terms", [mixed])):
    off = sorted(
        100 * (predicted(costs, run) / run.replica - 1)
        for costs in rounds
        for run in runs
    )
    print(f"{name}: predictions are off by {off[0]:+.0f} to {off[-1]:+.0f} %, ", end="")
    print(f"the median by {median(off):+.0f} %")

# %% [markdown]
# Everything below is wrong by at least that error. A run lasts a third of a second, and
# on a busy machine single runs differ by a half. So we go on with all three rounds: the
# range of what they say is a part of the answer.
#
# ## Observe: what hearing costs

# %%
demands = {"spread at random": Demand(), "by room": Demand(together=True)}
fleets = {
    name: [plan(costs, demand) for costs in rounds] for name, demand in demands.items()
}
hearing(rounds, unseen, fleets)

# %% [markdown]
# The dashed lines show how many messages a second each replica of the two fleets hears.
# *Spread at random* has members of a room of 100 on nearly every replica. Redis sends
# each message to most of the replicas, and each replica receives it for only one or two
# members. *By room* means that a router sends all members of a room to the same
# replica, so only one replica receives each message.
#
# The cost at one end of this curve is several times the cost at the other. A test with
# one message at a time, as one writes it first, measures the left end:

# %%
slow = [replace(costs, heard=Curve(((300, costs.heard.at(300)),))) for costs in rounds]
wrong = [plan(costs, demands["spread at random"]).replicas for costs in slow]
print(f"with the cost at 300 messages a second: {about(wrong, 'replicas')}")

# %% [markdown]
# That number is exact arithmetic with a cost from another load. It is the most common
# error of such estimates: each term must be measured at the rate at which it is used.
#
# ## Observe: a million connections

# %%
rounds = await this_machine()
demands = {"spread at random": Demand(), "by room": Demand(together=True)}
fleets = {
    name: [plan(costs, demand) for costs in rounds] for name, demand in demands.items()
}
causes(fleets)

# %%
spread = plan(middle(rounds), demands["spread at random"])
compare(my_guess, round(spread.replicas, -1), "replicas")

# %%
for name, plans in fleets.items():
    best = plan(middle(rounds), demands[name])
    print(f"{name}: {about([each.replicas for each in plans], 'replicas')}")
    print(f"    each message goes to {about([best.copies], 'of them')}")
    print(f"    each of them hears {about([best.hears], 'messages')} a second")
    print(f"    and has {about([best.memory / 1e6], 'MB')} of connections")
bandwidth = demands["by room"].bandwidth / 1e9
print(f"to the clients: {bandwidth:.1f} Gbit/s, in either case")

# %% [markdown]
# When clients are spread at random, every added replica hears nearly all messages
# again. So each replica adds work, and with it the need for more replicas. The run with
# one replica did not show that cost. Real clients are in several rooms, and a room may
# outgrow its replica, so the true number is between the two bars.
#
# ## Observe: a zone is lost
#
# We take the fleet *by room*, and a third of its replicas is lost. Each of the others
# gets its share of the handshakes in addition to its normal work. The clients reconnect
# as in chapter 7, with full jitter from 0.5 s on, and wait five seconds for an answer.
# TLS was not measured; we assume a millisecond for each handshake. The next cell
# simulates that:

# %%
costs, demand = middle(await this_machine()), Demand(together=True)
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
print(f"{about([clients], 'clients')} a replica, ", end="")
print(f"which can do {about([capacity], 'handshakes')} a second")
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
# - **Work that comes together.** Each cost was measured beside one other kind of work.
#   On a busy replica, more kinds share the turns of the event loop, and the messages of
#   a busy room are joined in one write. *Too many replicas.*
# - **One Redis.** With several Redis nodes, the same messages come over several
#   connections, and fewer of them share a turn. *Too few replicas.*
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
# So the result is not the range above: that is only how much this machine differs from
# itself. With all of these causes it is a range of about a factor of two, and a list of
# the causes, largest first. The list is the more useful part: it says what to measure
# next.
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
# `make ledger` measures what each stage adds to a delivery, a connection and a latency,
# in five minutes.
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
