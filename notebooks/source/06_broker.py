# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6 · Beyond one process
#
# **Promise:** every replica delivers its rooms' messages in one order. · *about 20
# minutes*
#
# One process is one core and one point of failure. With two, somebody must carry what
# is said in one to the other, and decide what came first.

# %%
from labserver.notebook import (
    bars,
    carried,
    check,
    compare,
    connected,
    duet,
    lanes,
    mistakes,
    my_guess,
    running_cluster,
    show,
)
from labserver.stages import broker

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
# ## Run: two people, two replicas
#
# Once with the stage, and once with the obvious remedy, the mistake `deliver-locally`.
# Both speak at the same moments, ten times.

# %%
ann, bob = await duet()
print("the stage:       the same order:", ann == bob)

# %%
short_ann, short_bob = await duet("deliver-locally")
print("deliver-locally: the same order:", short_ann == short_bob)

# %% [markdown]
# ## Observe: two screens

# %% tags=["picture"]
screens = {
    "Ann": ann,
    "Bob": bob,
    "Ann, short cut": short_ann,
    "Bob, short cut": short_bob,
}
lanes(
    {name: [text[0] for text in texts] for name, texts in screens.items()},
    {"a": "Ann's message", "b": "Bob's message"},
    title="The order decided in one place, and in two",
    x="place on the screen",
)

# %%
pairs = zip(short_ann, short_bob, strict=False)
compare(my_guess, sum(left != right for left, right in pairs), "of 20 places")

# %% [markdown]
# With the short cut each sees itself first. A chat survives that; a list that both edit
# does not. The price of one order is the way to Redis and back, also for one's own
# message.
#
# ## Run: rooms that are owned, and all of them
#
# Three replicas, four rooms on each, and every room's people on one replica. A replica
# of the stage listens to the rooms that it has members of. The mistake
# `subscribe-to-everything` needs no book-keeping.

# %%
owned = await carried(3)

# %%
everything = await carried(3, mistake="subscribe-to-everything")

# %% [markdown]
# ## Observe: what is carried for nothing

# %%
both = {"its own rooms": owned, "everything": everything}
bars(
    {
        "bytes that Redis sent, a message": {n: round(e.sent) for n, e in both.items()},
        "replicas that hear of it": {n: e.told for n, e in both.items()},
    },
    title="Three replicas; each message has one reader, on one of them",
)

# %% [markdown]
# With N replicas, N - 1 of N copies are for nobody, and each is parsed before it is
# thrown away. Adding replicas then adds work instead of taking it.
#
# ## Run: what sticky sessions buy
#
# A sticky router sends a client to the same replica each time. Bob hears two messages,
# loses his connection, and comes back with his cursor: to the same replica, to the
# other, and to the other when the first is dead.

# %%
async with running_cluster(2, "resume") as cluster:
    home, other = cluster.replicas
    async with connected(other, "ann", "lobby") as ann:
        async with connected(home, "bob", "lobby") as bob:
            await ann.publish("lobby", 1, 2)
            await bob.messages(2)
            epoch = bob.of("joined")[0]["epoch"]
        await ann.publish("lobby", 3, 4, 5)
        await ann.messages(5)
        cursor = {"epoch": epoch, "seq": 2}
        for name, replica in {
            "the same replica": home,
            "the other one": other,
            "the other, home is dead": other,
        }.items():
            if name.endswith("dead"):
                await home.stop()
            async with connected(replica, "bob") as bob:
                joined = await bob.join("lobby", after=cursor)
                await bob.messages(3)
                print(f"{name:24} recovered: {joined['recovered']}, {bob.payloads}")

# %% [markdown]
# No difference: numbers, history and order live in Redis, so that any replica will do.
# A WebSocket does not need stickiness for its handshake either, which is one request.
# What stickiness buys is warmth: fewer replicas in each room, so fewer copies, if it
# goes by room; even limits and caches for each client, if it goes by name. What it does
# not buy is order, completeness, or anything at all when the replica is gone.
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
# ## Mistakes

# %%
await compare("broker", "no-resubscribe")

# %%
await mistakes("broker")

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
