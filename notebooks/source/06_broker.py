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
# **Promise:** every replica delivers its rooms' messages in one order. · *about 50
# minutes*
#
# One process uses one core, and when it fails everything fails. With two processes,
# something must carry the messages of each to the other, and decide their order.

# %%
from redis.asyncio import Redis

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
    probe,
    running_cluster,
    show,
)
from labserver.redis.embedded import running_redis
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
    screens,
    {"a": "Ann's message", "b": "Bob's message"},
    title="The order decided in one place, and in two",
    x="place on the screen (≠ marks two screens that differ there)",
    pairs=[("Ann", "Bob"), ("Ann, short cut", "Bob, short cut")],
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
# ## Run: a stream instead of pub/sub
#
# A stream of Redis numbers its messages and keeps them, and `XREAD` with `BLOCK` waits
# for the next one. So why does the broker not leave all of this to a stream? Here a
# reader of each kind hears one message, is away for three, and comes back before the
# fifth. The stream keeps two messages.

# %%
async with running_redis() as url, Redis.from_url(url, decode_responses=True) as redis:

    async def say(*texts):
        for text in texts:
            await redis.publish("lobby", text)
            await redis.xadd("stream", {"text": text}, maxlen=2, approximate=False)

    async def listen(text):
        async with redis.pubsub(ignore_subscribe_messages=True) as link:
            await link.subscribe("lobby")
            await link.get_message(timeout=1)  # it is confirmed
            await say(text)
            print("pub/sub:", (await link.get_message(timeout=1))["data"])

    await listen("one")
    ((_, [(last, _)]),) = await redis.xread({"stream": 0}, block=1000)
    await say("two", "three", "four")
    await listen("five")
    for _, messages in await redis.xread({"stream": last}, block=1000):
        print("stream: ", *(f"{fields['text']} ({key})" for key, fields in messages))

# %% [markdown]
# The stream's reader goes on after its last id, so it gets what it missed, as far as
# that is kept. But the ids are times: they rise, and not by one. No reader can see that
# `two` and `three` are gone. The stage gives its streams ids of its own, `seq-1`.
#
# And a blocked connection does nothing else. Either each room has a connection, or one
# `XREAD` names all rooms of a replica. This measures the second, one message at a time.

# %%
import asyncio

MESSAGES = 50


async def spent(redis):
    """Return the bytes that Redis received and sent, and the CPU time that it used."""
    stats, cpu = await redis.info("stats"), await redis.info("cpu")
    size = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
    return size, cpu["used_cpu_user"] + cpu["used_cpu_sys"]


async def by_pubsub(redis, rooms):
    async with redis.pubsub() as link:
        await link.subscribe(*rooms)
        for _ in rooms:
            await link.get_message(timeout=1)
        before = await spent(redis)
        for number in range(MESSAGES):
            await redis.publish(rooms[number % len(rooms)], b"x" * 200)
            await link.get_message(timeout=1)
        return before, await spent(redis)


async def by_stream(redis, rooms):
    last = dict.fromkeys(rooms, b"0-0")
    before = await spent(redis)
    for number in range(MESSAGES):
        reading = asyncio.create_task(redis.xread(last, block=1000))
        await asyncio.sleep(0)  # it is on its way, and waits
        await redis.xadd(rooms[number % len(rooms)], {"b": b"x" * 200}, maxlen=1000)
        for room, messages in await reading:
            last[room] = messages[-1][0]
    return before, await spent(redis)


async with running_redis() as url, Redis.from_url(url) as redis:
    for count in (1, 10, 100, 1000):
        for way in (by_pubsub, by_stream):
            await redis.flushall()
            before, after = await way(redis, [b"room-%d" % n for n in range(count)])
            size, cpu = ((b - a) / MESSAGES for a, b in zip(before, after, strict=True))
            print(
                f"{count:4} rooms, {way.__name__:9} {size:6,.0f} bytes and "
                f"{cpu * 1e6:4.0f} us of Redis for each message"
            )

# %% [markdown]
# With pub/sub a message costs the same, however many rooms a replica listens to. An
# `XREAD` sends the names and last ids of all rooms again each time, and Redis enters
# the reader in a list for each of them. (Under load, one call brings several messages.)
# When a client joins another room, the call must end before that room can be named.
# Consumer groups do not help: of a group's messages, each goes to only one reader, and
# here every replica needs all.
#
# For a few streams that every reader follows, such as a log of events, `XREAD` is the
# better choice. For many rooms that come and go, the stage uses both: pub/sub carries,
# a stream keeps, and one script writes to both.

# %% [markdown]
# ## Build: your own broker
#
# Now write the part, on `redis.asyncio`. A server makes one object of it and calls
#
# - `publish(room, tail)` with the end of a message's JSON. It returns a future at once.
#   The future gets the message's seq, or the exception `BrokerDown` if the message may
#   not have been stored;
# - `subscribe(room)` when a client joins. It returns when this replica hears everything
#   that is published in the room from now on, or raises `BrokerDown`;
# - `read(room, after)` next. It returns `Position(epoch, seq)`: the new member gets
#   every message after this one.
#
# Whatever your broker hears, it gives to the hub, in order of seq:
#
# - `hub.deliver(room, event(room, seq, tail))` delivers a message;
# - `hub.deliver(room, gap(room, first, last, "broker"))` tells the members that these
#   messages are lost;
# - `hub.renumber(room, epoch, seq)` tells them that the numbers began again.
#
# Connections, tasks and `batch` are given. `pool(url)` makes connections that wait two
# seconds for an answer, and never repeat a command: a publish that is repeated may be
# in the room twice. `probe` runs two replicas with your class. It breaks their link to
# Redis, freezes Redis, and starts it again with nothing in it.
#
# <details><summary>Hint</summary>
#
# Begin without faults. `SAY` adds one to `seq` with `HINCRBY`, and publishes epoch, seq
# and message as one text. `send` puts an `eval` for each call of a batch into
# `self.redis.pipeline(transaction=False)`, and gives each future its seq. `hear` opens
# `self.redis.pubsub()`, and awaits `link.get_message(timeout=None)` again and again. A
# message's `type` is `message`, or `subscribe` when Redis has confirmed a subscription.
#
# Then the faults. Where Redis is asked, catch `(RedisError, OSError)`: `send` fails the
# futures of its batch, and `hear` connects again, and subscribes to all its rooms.
#
# At last the holes. When a link is new, how does a replica know what it has not heard?
# It asks in the room itself: for an empty message, `SAY` counts nothing, and publishes
# only where the room stands. So the answer comes in its place among the messages, and
# everything before it that was not heard is lost. Ask that each time Redis has
# confirmed a subscription. The first answer is also what `subscribe` waits for.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import asyncio
# import secrets
#
# from redis.asyncio import Redis
# from redis.exceptions import RedisError
#
# from labserver.contract.messages import event, gap
# from labserver.errors import BrokerDown
# from labserver.redis.commands import pool
# from labserver.redis.link import channel_of
# from labserver.server.parts import Position
#
# # KEYS[1]: the channel of a room. ARGV: a name for a new epoch, a message or nothing.
# SAY = """
# redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
# local epoch = redis.call('HGET', KEYS[1], 'epoch')
# local seq = redis.call('HINCRBY', KEYS[1], 'seq', ARGV[2] == '' and 0 or 1)
# redis.call('PUBLISH', KEYS[1], epoch .. ' ' .. seq .. ' ' .. ARGV[2])
# return seq
# """
#
#
# class MyBroker:
#     def __init__(self, url: str) -> None:
#         self.redis = Redis(connection_pool=pool(url))
#         self.calls = asyncio.Queue()  # what waits for the next round trip
#         self.link = None  # the pub/sub connection, while there is one
#         self.rooms = {}  # by room: a future, done when its position is known
#         self.places = {}  # by room: epoch and seq of the newest message heard
#
#     async def start(self, hub, history, metrics) -> None:
#         self.hub, self.loop = hub, asyncio.get_running_loop()
#         work = self.send(), self.hear()
#         self.tasks = [asyncio.create_task(each) for each in work]
#
#     async def stop(self) -> None:
#         for task in self.tasks:
#             task.cancel()
#         await asyncio.wait(self.tasks)
#         await self.redis.aclose(close_connection_pool=True)
#
#     async def batch(self) -> list:
#         """Return what waits to be sent, as soon as there is anything."""
#         calls = [await self.calls.get()]
#         while not self.calls.empty():
#             calls.append(self.calls.get_nowait())
#         return calls
#
#     def publish(self, room: str, tail: bytes, *about) -> asyncio.Future:
#         stored = self.loop.create_future()
#         self.calls.put_nowait((stored, room, tail))
#         return stored
#
#     async def send(self) -> None:
#         while True:
#             calls = await self.batch()
#             pipe = self.redis.pipeline(transaction=False)
#             for _, room, tail in calls:
#                 pipe.eval(SAY, 1, channel_of(room), secrets.token_hex(4), tail)
#             try:
#                 for seq in await pipe.execute():
#                     calls.pop(0)[0].set_result(seq)
#             except (RedisError, OSError) as exc:
#                 for stored, _, _ in calls:
#                     stored.set_exception(BrokerDown(str(exc)))
#
#     async def subscribe(self, room: str) -> None:
#         try:
#             if room not in self.rooms:
#                 self.rooms[room] = self.loop.create_future()
#                 if self.link:  # otherwise the next one subscribes
#                     await self.link.subscribe(channel_of(room))
#             await asyncio.wait_for(asyncio.shield(self.rooms[room]), 2)
#         except (RedisError, OSError) as exc:
#             raise BrokerDown(str(exc)) from None
#
#     async def read(self, room: str, after: int | None) -> Position:
#         return Position(*self.places[room])
#
#     async def hear(self) -> None:
#         while True:
#             try:
#                 async with self.redis.pubsub() as link:
#                     await link.connect()
#                     self.link = link
#                     for room in list(self.rooms):
#                         await link.subscribe(channel_of(room))
#                     while said := await link.get_message(timeout=None):
#                         room = said["channel"].decode()[5:-1]
#                         if said["type"] == "subscribe":  # perhaps again
#                             await self.publish(room, b"")
#                         else:
#                             self.heard(room, *said["data"].split(b" ", 2))
#             except (RedisError, OSError, BrokerDown):
#                 self.link = None
#                 await asyncio.sleep(0.1)
#
#     def heard(self, room: str, name: bytes, number: bytes, tail: bytes) -> None:
#         epoch, seq = name.decode(), int(number)
#         before = seq - 1 if tail else seq
#         known, last = self.places.get(room, (epoch, before))
#         if epoch != known:
#             self.hub.renumber(room, epoch, before)
#         elif before > last:
#             self.hub.deliver(room, gap(room, last + 1, before, "broker"))
#         if tail:
#             self.hub.deliver(room, event(room, seq, tail))
#         self.places[room] = epoch, seq
#         if not self.rooms[room].done():
#             self.rooms[room].set_result(None)
# ```
#
# </details>

# %% tags=["build"]
import asyncio
import secrets

from redis.asyncio import Redis
from redis.exceptions import RedisError

from labserver.contract.messages import event, gap
from labserver.errors import BrokerDown
from labserver.redis.commands import pool
from labserver.redis.link import channel_of
from labserver.server.parts import Position

# KEYS[1]: the channel of a room. ARGV: a name for a new epoch, a message or nothing.
SAY = """
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
"""


class MyBroker:
    def __init__(self, url: str) -> None:
        self.redis = Redis(connection_pool=pool(url))
        self.calls = asyncio.Queue()  # what waits for the next round trip
        self.link = None  # the pub/sub connection, while there is one
        self.rooms = {}  # by room: a future, done when its position is known
        self.places = {}  # by room: epoch and seq of the newest message heard

    async def start(self, hub, history, metrics) -> None:
        self.hub, self.loop = hub, asyncio.get_running_loop()
        work = self.send(), self.hear()
        self.tasks = [asyncio.create_task(each) for each in work]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.redis.aclose(close_connection_pool=True)

    async def batch(self) -> list:
        """Return what waits to be sent, as soon as there is anything."""
        calls = [await self.calls.get()]
        while not self.calls.empty():
            calls.append(self.calls.get_nowait())
        return calls

    def publish(self, room: str, tail: bytes, *about) -> asyncio.Future: ...

    async def send(self) -> None: ...

    async def subscribe(self, room: str) -> None: ...

    async def read(self, room: str, after: int | None) -> Position: ...

    async def hear(self) -> None: ...

    def heard(self, room: str, name: bytes, number: bytes, tail: bytes) -> None: ...


# %%
await probe(MyBroker)

# %% [markdown]
# The stage's own broker fills a hole from the room's history, and tells as lost only
# what is no longer there. It publishes a probe once a second, because a link may be
# silent without an error. A second after its last member has left, it also leaves a
# room: yours listens to it for ever. A publish with a `key` may be repeated, and stays
# one message. And its epochs see a Redis that was promoted, or restored from its disk,
# and has lost the newest messages.

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
