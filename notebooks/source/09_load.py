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
# A load test is a measurement by a program that has bugs, can be overloaded, and sees
# only the messages that arrive. This chapter shows three ways in which a load test
# makes a server look too good, and a remedy for each.

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
from labserver.notebook.experiments.loops import closed_loop, open_loop

# %% [markdown]
# ## Break: a server stalls, and the measurement does not notice
#
# A client sends 100 messages a second for two seconds, and waits for each to come back
# before it sends the next. Half-way the server is stopped for 300 ms with `SIGSTOP`;
# any long pause has the same effect. A second client runs at the same time; it is
# explained below.

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
# Both clients have the same schedule. They differ in one thing: whether they wait for
# the answer before they send the next message.

# %%
show(closed_loop, open_loop)

# %% [markdown]
# ## Run: the same stall, three ways to count
#
# We repeat the measurement. The second client keeps to its schedule, whether answers
# arrive or not. The latency of the first client's messages can also be counted from the
# time at which they were *due*.

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
        f"99 % {percentile(late, 99):4.0f} ms   over 50 ms: {share:3.0f} %"
    )

# %% [markdown]
# ## Observe: coordinated omission

# %% tags=["picture"]
stall_picture(closed, opened)

# %%
late = opened.from_due
compare(my_guess, 100 * sum(each > 50 for each in late) / len(late), "%")

# %% [markdown]
# While the server stood still, the first client waited, too: one message was slow, and
# about thirty that users would have sent were sent late and measured from that later
# time. This is called *coordinated omission*. Most load generators do it, also Locust's
# `constant_throughput`. The load tests of this lab send on a schedule and measure from
# the time at which a message was due, because real users do not wait for each other.
#
# ## Run: a generator that is slow itself
#
# We measure the same server twice. First the generator does nothing else; then other
# work takes 80 % of its time, in pieces of 40 ms, as happens with too many simulated
# users in one process. `slip` is how late the generator sent its own messages.

# %%
found = await generators(0, 0.8)
for share, trips in found.items():
    print(
        f"other work {share:3.0%}: 99 % back within "
        f"{percentile(trips.from_due, 99):3.0f} ms, 99 % sent within "
        f"{percentile(trips.slip, 99):3.0f} ms of when they were due"
    )

# %% [markdown]
# The server was the same. Only the slip distinguishes the second line from a slow
# server. And the slip is not the whole delay, because a busy process also reads late.
# So the load tests ask the kernel when a message arrived (`SO_TIMESTAMPNS`) and report
# both delays. When the generator's own delay is more than half of the measured latency,
# or its core is more than 80 % busy, the run is called invalid, with exit status 4. The
# figures of an invalid run mean nothing.
#
# ## Run: a server that loses messages looks fast
#
# A reader is only fast enough for half of the messages. One server keeps unread
# messages, up to 1 MiB; the other makes the mistake `dropped-in-silence` beyond 64 kB.

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
# Every percentile of the second server is better, because the messages that would have
# waited longest were dropped, and are not in its figures. So look first at
# completeness, which the load tests show beside every percentile. Each message has a
# number, and the load tests count every one.
#
# ## Read: how a run is judged

# %%
excerpt(
    "labserver/load/figures/verdict.py", "judge", "failure_reasons", "invalid_reasons"
)

# %% [markdown]
# ## Run: six scenarios
#
# We run all six scenarios at once, on two replicas, with 40 users for two seconds. That
# is enough to see how they work, but too little for a measurement. The first cell
# starts the replicas, the second the load, and the third prints what is asked below.

# %%
await six.begin()

# %%
await six.crowd()

# %%
print(await six.report())

# %% [markdown]
# Read the verdict first, then what was delivered, then the times.
#
# - `fanout`: how long does it take until every member has a message? Compare p99 from
#   *due* with the generator's own delay.
# - `slow_readers`: do healthy readers suffer from slow ones? Compare p99 of the
#   *healthy* with that of the *throttled*; gaps are announced, and nothing is *lost*.
# - `replicas`: are messages from another replica slower? All messages go through Redis,
#   so *same replica* and *other replica* should be alike.
# - `reconnect_storm`: how high is the peak of new connections, and how soon are all
#   clients back? Compare *accepts, peak* and *back after* with jitter and without;
#   *missed* must be 0.
# - `idle`: how much memory does an idle connection take, and when does the server
#   notice a dead one? *Noticed after* is at most two heartbeat intervals, here of half
#   a second.
# - `churn`: what do connects and disconnects cost? Look at p99 of a *handshake*, and
#   check that each bad token was *refused*.
#
# With so few users the storm has hardly a peak, and the memory per connection is too
# small beside the process's own memory. `make load` runs each scenario alone, with a
# load that suits a laptop and with faults, in five minutes.
#
# ## Exercise: judge a run
#
# Return `"nothing"` when no message was delivered; `"failed"` when `delivered` differs
# from `expected`; `"invalid"` when the generator used more than 0.8 of its core
# (`cpu`), or its own delay (`own`) is more than half of the measured `p99`; else
# `"valid"`. More than one may apply: decide which comes first.
#
# <details><summary>Hint</summary>
#
# A busy generator makes the times wrong. It does not lose messages.
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
# This runs the same scenarios against a server of your own; `make load` measures all of
# them properly:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 40 -r 40 -t 12s
#
# `-f loadtests/fanout.py` runs one scenario. `python -m loadtests ab` runs two settings
# in turns, and compares their difference with the difference between repeated runs.
#
# ## What still breaks
#
# An honest figure is true for this machine, this load and this time. The next chapter
# asks what it says about a million connections on other machines. Next: **10 · From one
# laptop to the internet**.
