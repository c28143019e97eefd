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
# One process uses one core, and when it fails everything fails. With two processes,
# something must carry the messages of each to the other, and decide their order.

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
from labserver.redis.publishing import Publisher
from labserver.stages import broker

# %% [markdown]
# ## Break: two replicas at stage 5
#
# Ann is on the first replica, Bob is on the second, and both are in the lobby.

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
# There is an obvious remedy: each replica delivers its own clients' messages at once,
# sends them to the other replica, and ignores its own when they come back. Ann and Bob
# each publish ten messages, at the same moments. At how many of the twenty places do
# their two screens then show different messages? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# One script in Redis numbers a message, keeps it and publishes it. Every replica, also
# the publisher's, delivers only the messages that come back from Redis.

# %%
show(Publisher, broker.RedisBroker.heard, broker.RedisBroker.catch_up)

# %% [markdown]
# ## Run: two people, two replicas
#
# We run this once with the stage, and once with the obvious remedy, which is the
# mistake `deliver-locally`. Ann and Bob publish at the same moments, ten times.

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
# With the short cut, each of them sees their own message first. A chat still works like
# that; a list that both edit does not. The price of a single order is that every
# message makes the round trip to Redis, also on the publisher's replica.
#
# ## Run: subscribe to some rooms, or to all of them
#
# There are three replicas with four rooms each, and all members of a room are on the
# same replica. At this stage a replica subscribes to the rooms of its own members. The
# mistake `subscribe-to-everything` saves that book-keeping.

# %%
owned = await carried(3)

# %%
everything = await carried(3, mistake="subscribe-to-everything")

# %% [markdown]
# ## Observe: copies that no client needs

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
# With N replicas, N - 1 of N copies have no reader, and each is parsed before it is
# thrown away. Every added replica then adds work for all others.
#
# ## Run: what sticky sessions are good for
#
# A sticky router sends a client to the same replica each time. Bob receives two
# messages, loses his connection, and reconnects with his cursor: first to the same
# replica, then to the other one, then to the other one while the first is dead.

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
# There is no difference: numbers, history and order are in Redis, so any replica will
# do. The handshake of a WebSocket is a single request, so it does not need a sticky
# router either. A sticky router saves work: by room, each room has members on fewer
# replicas, so fewer copies are sent; by user name, the limits and caches of a user are
# on one replica. It does not provide order or completeness, and it does not help when
# the replica is gone.
#
# ## Exercise: find the holes
#
# Redis pub/sub loses the messages that are published while a replica reconnects. The
# sequence numbers show the loss. A replica has delivered everything up to `delivered`;
# then the seqs `arriving` come in this order, some perhaps late or twice. Return the
# holes as a list of `(first, last)`, both inclusive, in the order in which they show.
#
# <details><summary>Hint</summary>
#
# Only a seq above `delivered + 1` shows a hole. Then continue with the higher of
# `delivered` and `seq`.
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
# `labserver cluster --replicas 2` prints the URLs and a token. Set `LAB_TOKEN` to the
# token, and load both replicas:
#
#     locust -f loadtests/replicas.py --headless --replicas URL,URL -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Bob's train is in a tunnel for ten seconds. When he reconnects, the messages of those
# ten seconds are lost for him. Next: **7 · Coming back**.
