# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6 · Broker
#
# **Promise:** every replica delivers its rooms' messages in one order. · *about 20
# minutes*
#
# One process is one core and one point of failure. With two, somebody must carry what
# is said in one to the other, and decide what came first.

# %%
from labserver import broker
from labserver.notebook import check, compare, connected, lanes, running_cluster, show

# %% [markdown]
# ## Break: two replicas at stage 5
#
# Ann is on the first, Bob on the second, both in the lobby.

# %%
async with running_cluster(2, "backpressure") as cluster:
    first, second = cluster.replicas
    async with (
        connected(first, "ann", "lobby") as ann,
        connected(second, "bob", "lobby") as bob,
    ):
        await ann.publish("lobby", "hello, bob")
        print("ann hears herself:", await ann.messages(1))
        print("bob hears ann:    ", await bob.messages(1, within=0.5))

# %% [markdown]
# ## Predict
#
# The obvious remedy: each replica delivers its own people's messages at once, sends
# them to the other, and skips its own when they come back. Ann and Bob each publish ten
# messages, at the same moments. At how many of the twenty places do their two screens
# then show different messages? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The path of a message: one script in Redis numbers, keeps and publishes it. Every
# replica, the publisher's too, delivers only what comes back.

# %%
show(broker.RedisBroker.publish, broker.RedisBroker.heard, broker.RedisBroker.catch_up)

# %% [markdown]
# ## Run
#
# Two replicas on an embedded Redis. We note when each message was sent; each peer notes
# what it hears and when.

# %%
import asyncio
import time

sent = {}


async def say(peer, text):
    sent[text] = time.monotonic()
    await peer.publish("lobby", text)


async with running_cluster(2, "broker") as cluster:
    first, second = cluster.replicas
    async with (
        connected(first, "ann", "lobby") as ann,
        connected(second, "bob", "lobby") as bob,
    ):
        for number in range(10):
            await asyncio.gather(say(ann, f"a{number}"), say(bob, f"b{number}"))
            await asyncio.sleep(0.01)
        complete = await ann.messages(20) and await bob.messages(20)

print("both heard all 20:", complete)
print("in the same order:", ann.payloads == bob.payloads)
print("numbered without holes:", [m["seq"] for m in bob.of("message")])

# %% [markdown]
# ## Observe: two screens
#
# The upper two rows are what was heard. The lower two are computed from the same run:
# what each would have seen with the short cut, its own messages at the moment they were
# sent, the other's when they came.


# %%
def with_short_cut(peer, own):
    times = {
        text: sent[text] if text[0] == own else at for text, at in peer.heard.items()
    }
    return sorted(times, key=times.get)


screens = {
    "ann": ann.payloads,
    "bob": bob.payloads,
    "ann, short cut": with_short_cut(ann, "a"),
    "bob, short cut": with_short_cut(bob, "b"),
}
lanes(
    {name: [text[0] for text in texts] for name, texts in screens.items()},
    {"a": "Ann's message", "b": "Bob's message"},
    title="The order decided in one place, and in two",
    x="place on the screen",
)

# %%
pairs = zip(screens["ann, short cut"], screens["bob, short cut"], strict=True)
compare(my_guess, sum(left != right for left, right in pairs), "of 20 places")

# %% [markdown]
# With the short cut each sees itself first. A chat survives that; a list that both edit
# does not. The price of one order is the way to Redis and back, also for one's own
# message.
#
# ## Exercise: see the holes
#
# Redis pub/sub may lose what is published while a replica reconnects. The numbers
# betray it. A replica has delivered up to `delivered`; then these seqs arrive, perhaps
# some late or twice. Return the holes, as a list of `(first, last)`, both inclusive,
# at the moment each shows.
#
# <details><summary>Hint</summary>
#
# Only a seq above `delivered + 1` shows a hole. Then go on from the higher of both.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def holes(delivered: int, arriving: list[int]) -> list[tuple[int, int]]:
#     found = []
#     for seq in arriving:
#         if seq > delivered + 1:
#             found.append((delivered + 1, seq - 1))
#         delivered = max(delivered, seq)
#     return found
# ```
#
# </details>


# %% tags=["exercise"]
def holes(delivered: int, arriving: list[int]) -> list[tuple[int, int]]:
    # Six lines.
    ...


# %%
check(holes)

# %% [markdown]
# ## Load
#
# `labserver cluster --replicas 2` prints the URLs, and a token that Locust takes from
# `LAB_TOKEN`; a crowd on both of them:
#
#     locust -f loadtests/replicas.py --headless --replicas URL,URL -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Bob's train enters a tunnel for ten seconds. He comes back, and what was said
# meanwhile is gone. Next: **7 · Resume**.
