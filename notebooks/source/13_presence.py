# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · Who is here
#
# **Promise:** members are told who is in their room, without a storm, and the dead
# leave. · *about 30 minutes*
#
# A list of who is there looks like a small feature. It has two difficulties. Everybody
# wants to know of everybody, so a crowd that comes back costs its square. And who dies
# says no goodbye.

# %%
from asyncio import gather, sleep

from redis.asyncio import Redis

from labserver.notebook import (
    Ghosts,
    check,
    compare,
    connected,
    crowd,
    curves,
    know,
    my_guess,
    running,
    running_cluster,
    show,
    told,
)
from labserver.redis.link import channel_of
from labserver.redis.presence import here
from labserver.server import presence

# %% [markdown]
# ## Break: people who announce themselves
#
# With rooms alone, a client can announce itself: it joins, and publishes that it is
# there. Ann does so, then Bob, and then Bob's connection is lost.

# %%
async with running("rooms") as server, connected(server, "ann", "lobby") as ann:
    await ann.publish("lobby", "ann is here")
    await ann.messages(1)
    async with connected(server, "bob", "lobby") as bob:
        await bob.publish("lobby", "bob is here")
        await ann.messages(2)
        await bob.messages(1)
        print("ann heard:", ann.payloads)
        print("bob heard:", bob.payloads)
        bob.connection.transport.abort()
        more = await ann.messages(3, within=0.5)
        print("ann was told that bob is gone:", more)

# %% [markdown]
# Bob does not know of Ann, who came before him, and nobody says that Bob is gone. Each
# member could answer each newcomer, which makes even more messages.
#
# ## Predict
#
# A server restarts, and 120 people are back in their room at once. If each of them
# hears of each, that is 14,400 messages. This server tells a room of its changes at
# most once a second. How many messages do all of them together get from it? Set a
# number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# A client asks with `{"type": "join", "room": "lobby", "presence": true}`. It gets one
# `present` with everybody who is there, and from then on a `presence` with all who came
# and left since the last one. Each room has a task, `_follow`. It looks at its room
# after a change, but not within a second of its last look. `_tell` builds one frame
# for everybody.

# %%
show(
    presence.Attendance._follow,
    presence.Attendance._tell,
    presence.change,
    presence.picture,
)

# %% [markdown]
# Several replicas meet in Redis. Each stores its own people of a room, and gets those
# of all. A script does both, `labserver/redis/presence.lua`. An entry has a time to
# live, and a replica that lives repeats it.

# %%
show(here)
print(f"looks at a room: {presence.INTERVAL:g} s apart at least")
print(f"repeats its people after {presence.REFRESH:g} s without a change")
print(f"an entry lives for {presence.TTL * presence.REFRESH:g} s")
print(f"names at most {presence.NAMED_LIMIT} people of a room")

# %% [markdown]
# ## Run: a crowd comes back
#
# First everybody announces oneself, in rooms of four sizes. Of each crowd, all join at
# once; then all publish at once. We count what they receive.

# %%
SIZES = [15, 30, 60, 120]


def heard(peer, room):
    return told([peer], room, "message").messages


async def announced(peers, room):
    await gather(*(each.join(room) for each in peers))
    await gather(*(each.publish(room, each.hello["user"]) for each in peers))
    for each in peers:
        await each.until(lambda each=each: heard(each, room) == len(peers))


naive = []
async with (
    running("rooms", message_rate_limit=0) as server,
    crowd(server, max(SIZES)) as peers,
):
    for size in SIZES:
        room = f"crowd-of-{size}"
        await announced(peers[:size], room)
        naive.append(told(peers, room, "message"))
for size, each in zip(SIZES, naive, strict=True):
    print(f"{size:4} people: {each.messages:6,} messages, {each.bytes:9,} bytes")

# %% [markdown]
# Now they ask the server for presence instead. The four crowds come at the same time,
# each to its own room, and wait until they know that all are there.


# %%
async def asked(peers, room):
    joins = (each.ask(type="join", room=room, presence=True) for each in peers)
    await gather(*joins)
    await know(peers, room, len(peers))


async with (
    running("rooms", message_rate_limit=0) as server,
    crowd(server, max(SIZES)) as peers,
):
    rooms = {f"crowd-of-{size}": peers[:size] for size in SIZES}
    await gather(*(asked(some, room) for room, some in rooms.items()))
    batched = [told(peers, room, "present", "presence") for room in rooms]
for size, each in zip(SIZES, batched, strict=True):
    print(f"{size:4} people: {each.messages:6,} messages, {each.bytes:9,} bytes")

# %% [markdown]
# ## Observe: the square, and what is left of it

# %% tags=["picture"]
curves(
    {
        "each tells each": (SIZES, [each.messages for each in naive]),
        "batches": (SIZES, [each.messages for each in batched]),
    },
    title="Messages that a crowd receives when it comes back",
    x="people in the room",
    y="messages",
    log=True,
    points=True,
)

# %%
compare(my_guess, batched[-1].messages, "messages for 120 people")

# %% [markdown]
# Batches turn the square into a few messages for each member, in crowds of all four
# sizes. The price is that a change may wait for a second.
#
# Look at the bytes, too. From 15 to 60 people they still grow much faster than the
# crowd: each of n members gets a list of n people. So a batch alone is not enough. The
# lists need a bound. What 120 people get varies between runs: those who are told before
# a hundred are there get a list, and the others a number.
#
# ## Run: a list against a count
#
# This server names a hundred people of a room. If there are more, it only tells how
# many. Eve comes to two rooms at the same time: to one as the hundredth, to the other
# as the hundred and first.

# %%
async with running_cluster(1, message_rate_limit=0) as cluster:
    (server,) = cluster.replicas
    async with crowd(server, 100) as peers, connected(server, "eve") as eve:
        rooms = {"named": peers[:99], "counted": peers}
        for room, members in rooms.items():
            for each in members:
                await each.send(type="join", room=room, presence=True)
        for room, members in rooms.items():
            await know(members, room, len(members))
        for each in peers:
            each.received.clear()
        for room in rooms:
            await eve.send(type="join", room=room, presence=True)
        for room, members in rooms.items():
            everybody = [eve, *members]
            await know(everybody, room, len(everybody))
            hers = told([eve], room, "present").bytes
            theirs = told(members, room, "present", "presence").bytes
            async with Redis.from_url(cluster.redis) as redis:
                kept = await redis.hgetall(f"{channel_of(room)}:presence")
            entry = max(len(value) for value in kept.values())
            print(f"{room}, {len(everybody)} people")
            print(f"   eve is told         {hers:6,} bytes")
            print(f"   the others are told {theirs:6,} bytes, all together")
            print(f"   Redis is told       {entry:6,} bytes, every two seconds")

# %% [markdown]
# For those who are there already, one name costs about as much again as the number. It
# is the newcomer who gets the whole list, and Redis, which gets it again and again
# though nothing has changed. Both grow with the room, and a count does not. So ask of a
# list whether anybody reads it.
#
# ## Run: a replica is killed
#
# Ann, Bob and Cat are in twelve rooms, and each of them is on another replica. Then
# Bob's replica is killed, and at the same moment Cat's is asked to stop. This goes on
# in the background, while the next cells look at it.

# %%
show(Ghosts._run)

# %%
ghosts = Ghosts(rooms=12)
await ghosts.ready()
print("ann sees bob and cat in every room")

# %% [markdown]
# What does Redis have of them, when both replicas have ended, and three seconds later?

# %%
await ghosts.ended()
print("at once:        ", await ghosts.kept())
await sleep(3)
print("3 seconds later:", await ghosts.kept())

# %% [markdown]
# Cat's replica has taken its entries away before it ended. Ann's repeats hers, and
# nobody repeats Bob's. They run out, and until then he is a ghost.

# %%
seen = await ghosts.gone()
for user, (times, _) in seen.items():
    print(
        f"{user} leaves the first room after {times[1]:.1f} s, "
        f"the last after {times[-2]:.1f} s"
    )

# %% [markdown]
# ## Observe: how long a ghost stays

# %%
curves(
    {"bob, killed": seen["bob"], "cat, stopped": seen["cat"]},
    title="Rooms in which Ann still sees Bob and Cat",
    x="seconds since both replicas ended",
    y="rooms",
    steps=True,
)

# %% [markdown]
# An entry lives six seconds from its last repetition, which is up to two seconds ago,
# and another replica looks at the room at least every two seconds. So a ghost stays for
# four to eight seconds. To shorten that, replicas must repeat their people more often,
# in every room. And an entry that lives for less than a replica's pause removes people
# who are there.
#
# A stopping server has to say goodbye for its people, with the rest of its shutdown.
# It takes them away at once, and Ann is told within a second.
#
# ## Exercise: people, not connections
#
# The server tells of connections: Bob with two tabs is there twice, and when he reloads
# his page, one connection leaves and another comes. A screen shows people. `told` and
# `now` map the id of each connection to its user, before and after a change. Return two
# sorted lists of users: who came, and who left.
#
# <details><summary>Hint</summary>
#
# Who has a connection in `now` and had none in `told` came, however many there are.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def news(told: dict[str, str], now: dict[str, str]) -> tuple[list[str], list[str]]:
#     before, after = set(told.values()), set(now.values())
#     return sorted(after - before), sorted(before - after)
# ```
#
# </details>


# %% tags=["exercise"]
def news(told: dict[str, str], now: dict[str, str]) -> tuple[list[str], list[str]]:
    # Two lines.
    ...


# %%
check(news)

# %% [markdown]
# ## Load
#
# Presence is paid for when people come and go, not when they talk. These visitors
# connect, join, publish, leave and hang up, twice a second, without asking for
# presence: so this is the cost of arrivals by themselves.
#
#     locust -f loadtests/churn.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# A list of who is there is always a little old: by a second after an arrival, by a few
# after the death of a replica, and by two intervals of the heartbeat after a peer has
# vanished (chapter 4). Show it to people, and base no decision of a program on it: it
# is no lock, and it does not say who will get the next message.
