# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9 · Load testing honestly
#
# **Promise:** a figure that cannot be trusted says so itself. · *about 25 minutes*
#
# A load test is a measurement by a program that has bugs, gets tired and sees only what
# comes back. Three ways in which it flatters a server, and what is done about each.

# %%
from labserver.notebook import (
    check,
    compare,
    dawdling,
    excerpt,
    generators,
    my_guess,
    percentile,
    show,
    six,
    stall_picture,
    through_a_stall,
)
from labserver.notebook.loops import closed_loop, open_loop

# %% [markdown]
# ## Break: a server stalls, and the measurement does not notice
#
# A client sends 100 messages a second for two seconds and waits for each to come back
# before it sends the next. Half-way the server is stopped for 300 ms (`SIGSTOP`), as a
# long pause of any kind would. A second client runs beside it; more of that one below.

# %%
closed, opened = await through_a_stall()
slow = sum(late > 50 for late in closed.from_sent)
print(f"{len(closed.from_sent)} messages, {slow} of them took more than 50 ms")
print(f"half within {percentile(closed.from_sent, 50):.1f} ms")
print(f"99 % within {percentile(closed.from_sent, 99):.1f} ms")

# %% [markdown]
# ## Predict
#
# The server was away for 300 ms of two seconds. Had the client kept to its schedule,
# how many percent of its messages would have taken more than 50 ms? Set a number, or
# leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# Both clients have the same schedule. They differ in one line: where they wait.

# %%
show(closed_loop, open_loop)

# %% [markdown]
# ## Run: the same stall, three ways to count
#
# The same again. The second client keeps to its schedule, whatever comes back. And the
# first one's messages can be counted from when they were *due*, too.

# %%
closed, opened = await through_a_stall()
ways = {
    "closed loop, from sent": closed.from_sent,
    "closed loop, from due": closed.from_due,
    "open loop, from due": opened.from_due,
}
for way, late in ways.items():
    share = 100 * sum(each > 50 for each in late) / len(late)
    print(
        f"{way:24} half {percentile(late, 50):5.1f} ms   "
        f"99 % {percentile(late, 99):5.1f} ms   over 50 ms: {share:4.1f} %"
    )

# %% [markdown]
# ## Observe: coordinated omission

# %% tags=["picture"]
stall_picture(closed, opened)

# %%
late = opened.from_due
compare(my_guess, 100 * sum(each > 50 for each in late) / len(late), "%")

# %% [markdown]
# While the server stood still, the first client stood still with it: it asked once, and
# thirty messages that users would have sent were never measured, or were sent late and
# counted from then. The name is *coordinated omission*. Most load generators do this,
# Locust's `constant_throughput` among them. The load tests of this lab keep to a
# schedule and count from when a message was due, as real users do who do not wait for
# each other.
#
# ## Run: the generator is what is slow
#
# The same server twice. First the generator does nothing else; then other work takes
# 80 % of its time, in pieces of 40 ms, as parsing and checking do when there are too
# many users in one process. `slip` is how late it was with its own messages.

# %%
found = await generators(0, 0.8)
for share, trips in found.items():
    print(
        f"other work {share:3.0%}: 99 % back within "
        f"{percentile(trips.from_due, 99):5.1f} ms, 99 % sent within "
        f"{percentile(trips.slip, 99):5.1f} ms of when they were due"
    )

# %% [markdown]
# The server was the same. Only the slip tells the second line from a slow server, and
# it is half the story: the busy process also reads late. The load tests ask the kernel
# when a message arrived (`SO_TIMESTAMPNS`) and report both. When the generator's own
# delay is more than half of what it measured, or its processor more than 80 % busy,
# the run is called invalid, with exit status 4. No figure of it is worth a discussion.
#
# ## Run: who loses messages is fast
#
# A reader takes half of what is published. One server keeps what waits, up to 1 MiB;
# the other makes the mistake `dropped-in-silence` beyond 64 kB.

# %%
import asyncio

servers = {
    "keeps": {},
    "drops": {"mistake": "dropped-in-silence", "outbox_limit": 65536},
}
runs = await asyncio.gather(*(dawdling(**options) for options in servers.values()))
for name, run in zip(servers, runs, strict=True):
    print(f"{name}: {run}")

# %% [markdown]
# By every percentile the second server is the better one. Whoever waited longest is
# not in its figures. So completeness stands beside every percentile, and is looked at
# first: each message has a number, and each is accounted for.
#
# ## Read: how a run is judged

# %%
excerpt(
    "labserver/load/figures/verdict.py", "judge", "failure_reasons", "invalid_reasons"
)

# %% [markdown]
# ## Run: six scenarios
#
# All of them at once, on two replicas: 40 users for two seconds. That is a look, not
# a measurement. It runs beside the kernel: replicas, then the crowd, then the summary.

# %%
await six.begin()

# %%
await six.crowd()

# %%
print(await six.report())

# %% [markdown]
# How to read it: the verdict, then what was delivered, then the times.
#
# - `fanout`: how soon has everybody got a message? Look at p99 from *due*, beside the
#   generator's own delay.
# - `slow_readers`: do the healthy notice the slow? Look at p99 of the *healthy* beside
#   that of the *throttled*; gaps are announced, and nothing is *lost*.
# - `replicas`: what does the other replica's message cost? The way of both is over
#   Redis, so *same replica* and *other replica* should be alike.
# - `reconnect_storm`: how hard is a server hit, how soon are all back? Look at
#   *accepts, peak* and *back after*, with jitter and without; *missed* must be 0.
# - `idle`: what does a silent connection cost, and when is a dead one found? *Noticed
#   after* is at most two heartbeat intervals, here of half a second.
# - `churn`: what do coming and going cost? Look at p99 of a *handshake*, and that each
#   bad token was *refused*.
#
# With so few users the storm has no peak worth the name, and memory per connection
# drowns in what the process has anyway. `make load` runs each alone at laptop size,
# with faults, in four minutes.
#
# ## Exercise: judge a run
#
# Return `"nothing"` when nothing was delivered; `"failed"` when not exactly what was
# expected was delivered; `"invalid"` when the generator used more than 0.8 of its core,
# or its own delay is more than half of the measured p99; else `"valid"`. In the order
# that is right.
#
# <details><summary>Hint</summary>
#
# A busy generator makes times wrong. It does not make messages vanish.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def judge(expected: int, delivered: int, p99: float, own: float, cpu: float) -> str:
#     if not delivered:
#         return "nothing"
#     if delivered != expected:
#         return "failed"
#     return "invalid" if cpu > 0.8 or own > p99 / 2 else "valid"
# ```
#
# </details>


# %% tags=["exercise"]
def judge(expected: int, delivered: int, p99: float, own: float, cpu: float) -> str:
    # Five lines.
    ...


# %%
check(judge)

# %% [markdown]
# ## Load
#
# What ran above, against a server of yours; `make load` for all of it in earnest:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 40 -r 40 -t 12s
#
# One scenario is `-f loadtests/fanout.py`, and so on. Two settings are compared in
# turns, with what repeats differ by anyway: `python -m loadtests ab --help`.
#
# ## What still breaks
#
# An honest figure is true of this machine, this load and this quarter of an hour. What
# it says of a million connections on other machines is the last question:
# **10 · From one laptop to the internet**.
