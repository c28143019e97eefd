# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3 · Rooms and fan-out
#
# **Promise:** a message reaches everyone in its room, once. · *about 45 minutes*
#
# The main use of a WebSocket server is to send one message to a group, and most of its
# time goes into that. The message itself is cheap; the system call for each member is
# not.

# %%
from labserver.notebook import (
    check,
    compare,
    connected,
    costs,
    crowd,
    curves,
    fitted,
    flames,
    mistakes,
    my_guess,
    probe,
    running,
    show,
)
from labserver.server import hub
from labserver.stages import rooms

# %% [markdown]
# ## Break: two people at stage 2

# %%
async with (
    running("auth") as server,
    connected(server, "ann") as ann,
    connected(server, "bob") as bob,
):
    await ann.publish("lobby", "hello, bob")
    await ann.until(lambda: ann.received)
    heard = await bob.until(lambda: bob.received, within=0.5)
print("ann got:", ann.received[0]["type"])
print("bob heard something:", heard)

# %% [markdown]
# ## Predict
#
# Twenty members are in a room, and one of them publishes 64 messages in one go. That
# makes 1280 deliveries. How many socket writes does the server need for them? Set a
# number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The stage decides what a message means. The hub keeps two indexes (the members of each
# room, the rooms of each connection) and delivers. The first cell shows the way of a
# message from the broker to the sockets, the second the stage.

# %%
show(hub.Hub.deliver, hub.Hub.flush)

# %%
show(rooms)

# %% [markdown]
# ## Run

# %%
async with (
    running("rooms") as server,
    connected(server, "ann", "lobby") as ann,
    connected(server, "bob", "lobby") as bob,
    connected(server, "eve", "elsewhere") as eve,
):
    await ann.publish("lobby", "hello, bob")
    await ann.messages(1)
    await bob.messages(1)
    await eve.ask(type="ping")  # any earlier message would arrive before the pong
for name, peer in {"ann": ann, "bob": bob, "eve": eve}.items():
    print(name, peer.of("message"))

# %% [markdown]
# Ann gets her own message like everyone else, with its number. Her client could show
# the message as soon as she sends it, but then she would see another order than the
# others.
#
# ## Run: the price of one more member
#
# A message has a fixed cost (read, parse, number) and a cost for each member that gets
# it: T = a + bN. We publish one message at a time to a room that grows. The kernel
# counts how much CPU time the server took, and how much of it in system calls. On a
# busy machine the points scatter; look at the lines.

# %%
cost = await costs("rooms")
print(cost)

# %% [markdown]
# ## Observe

# %% tags=["picture"]
fitted(
    {"all": (cost.members, cost.taken), "kernel": (cost.members, cost.kernel)},
    title="What one message costs the server, by the size of its room",
    x="members N",
    y="CPU time a message, µs",
)

# %% [markdown]
# The points are measured, the lines are fitted to them. On a quiet machine most of the
# slope `b` is time in the kernel: one system call for each member. A faster parser
# would only change `a`. Two methods keep the slope low.
#
# ## Run: encode once
#
# A server's frames are not masked, so all members can get the same bytes. Many servers
# encode the message again for each member. The cell below has both versions as plain
# functions for a room of 50. They write to `/dev/null`, which is a system call without
# a network. A profiler looks a thousand times a second at which function runs.

# %%
import json
import os

null = open(os.devnull, "wb", buffering=0)
message = {"type": "message", "room": "lobby", "seq": 1, "from": "ann"}
message["payload"] = [{"id": number, "text": "x" * 20} for number in range(20)]


def write(frame: bytes) -> None:
    null.write(frame)


def encode(message: dict) -> bytes:
    return json.dumps(message).encode()


def once_for_all() -> None:
    frame = encode(message)
    for _ in range(50):
        write(frame)


def for_each_member() -> None:
    for _ in range(50):
        write(encode(message))


flames(
    {"JSON for each member": for_each_member, "JSON once": once_for_all},
    title="Where the time of a fan-out goes: a box lies on who called it",
)

# %% [markdown]
# A box stands for a function, and its caller is the box below it. Its width is the time
# that it took, in both graphs on the same scale; the last graph is the second one,
# magnified. With JSON for each member nearly all time is in `encode`. In the magnified
# graph `write` is wide as well. In a profile of your own server, look for wide boxes
# whose work is the same for every member. Both versions deliver every message, so only
# a profile shows the difference.
#
# ## Run: one write a tick
#
# The server counts deliveries and writes. In a room of twenty members, one member
# publishes 1, 2, 4, ... 64 messages in one go.

# %%
MEMBERS = 20
in_one_go, writes = [1, 2, 4, 8, 16, 32, 64], []

async with running("rooms") as server, crowd(server, MEMBERS, "lobby") as peers:
    said = 0
    for count in in_one_go:
        rounds = await server.metric("labserver_flushes_total")
        await peers[0].publish("lobby", *range(count))
        said += count
        for peer in peers:
            await peer.messages(said)
        rounds = await server.metric("labserver_flushes_total") - rounds
        writes.append(rounds * MEMBERS)
    everything = all(len(peer.payloads) == said for peer in peers)

print(f"everybody got all {said} messages, once: {everything}")
curves(
    {
        "deliveries": (in_one_go, [count * MEMBERS for count in in_one_go]),
        "writes": (in_one_go, writes),
    },
    title=f"A room of {MEMBERS}: one write a member and tick, however many messages",
    x="messages published in one go",
    y="deliveries and writes",
    log=True,
    points=True,
)

# %%
compare(my_guess, writes[-1], "writes for 1280 deliveries")

# %% [markdown]
# The hub joins the messages that reach a room during one turn of the event loop, and
# each member gets them in one write. The frames are built once and shared by all
# members. So the busier a room is, the less a delivery costs.
#
# ## Exercise: forget a connection
#
# `members` maps each room to the set of its connections; `rooms` maps each connection
# to the set of its rooms. The connection `who` has ended. Remove it from both
# dictionaries, in place, and delete rooms that are empty afterwards.
#
# <details><summary>Hint</summary>
#
# `rooms.pop(who, set())` returns the connection's rooms and removes the connection.
# Then go through all of these rooms, not only the first.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def forget(who: str, members: dict, rooms: dict) -> None:
#     for room in rooms.pop(who, set()):
#         members[room].discard(who)
#         if not members[room]:
#             del members[room]
# ```
#
# </details>


# %% tags=["exercise"]
def forget(who: str, members: dict, rooms: dict) -> None:
    # Four lines.
    ...


# %%
check(forget)

# %% [markdown]
# ## Build: your own rooms
#
# Now write the application itself, with both indexes. A server makes one object of your
# class, and calls
#
# - `await receive(member, text)` with each message of a client;
# - `closed(member)` when a connection has ended, however it ended.
#
# `decode(text)` returns one of these messages. Each may have a `ref`, which goes into
# the answer:
#
# | message | what to do | answer |
# |---|---|---|
# | `Echo` | | the message itself |
# | `Ping` | | `Pong(ref)` |
# | `Join` | add the member, once | `Joined(room, epoch, seq, False, ref)` |
# | `Leave` | remove it, if it is there | `Left(room, ref)` |
# | `Publish` | number it, send it to all members | `Ack(room, seq, ref)` |
# | `Refresh` | `self.refresh(...)`, which is there | |
#
# - A room counts its messages: 1, 2, 3, ... `seq` is the number of the newest one, and
#   `epoch` is a text that names this numbering. (`False`: nothing that the client
#   missed is sent again. That is chapter 7.)
# - Keep nothing of a room that is empty. A message to it has number 1, and is heard by
#   nobody; later the room begins again with another epoch.
# - Everybody may publish, not only members. There is no `Ack` if `ref` is `UNSET`.
# - A token may name the rooms that its client may join and publish to. Unless
#   `member.identity.may_enter(room)`, `raise BadMessage("forbidden", why, ref)`: the
#   server answers with that error.
#
# What your class needs to send:
#
# - `member.reply(answer)` sends an answer to one client;
# - `event(room, seq, body(member.identity.user, message.payload))` is a message of a
#   room, and `chunk(variant, room, [it])` its frame. Members with the same `variant`
#   (JSON or CBOR, compressed or not) get the same chunk, built once:
#   `each.outbox.deliver(...)`.
#
# <details><summary>Hint</summary>
#
# Give each of `Join`, `Publish` and `Leave` a method; `match` takes a message apart:
# `case Ping(): ...`. Write `leave(member, room)` so that it may also be called for a
# client that is not in the room, and let `closed` call it for each room. An epoch may
# be `secrets.token_hex(4)`. A dictionary's `setdefault` adds what is missing, `get`
# does not.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import secrets
#
# from msgspec import UNSET
#
# from labserver.contract.decoding import decode
# from labserver.contract.messages import (
#     Ack,
#     Echo,
#     Join,
#     Joined,
#     Leave,
#     Left,
#     Ping,
#     Pong,
#     Publish,
#     Refresh,
#     Refreshed,
#     body,
#     event,
# )
# from labserver.contract.wire import chunk
# from labserver.errors import BadMessage
#
#
# class MyRooms:
#     def __init__(self, lab) -> None:
#         self.members = {}  # by room: the set of its members
#         self.rooms = {}  # by member: the set of its rooms
#         self.numbers = {}  # by room: its epoch, and its newest seq
#         self.lab = lab
#
#     def refresh(self, member, message) -> None:
#         """Give a member a new token, if it is good; else end it. (Chapter 2.)"""
#         answer = self.lab.admission.refresh(member, message.token)
#         if answer is not None:
#             member.reply(Refreshed(answer.expires, message.ref))
#
#     async def receive(self, member, text: str) -> None:
#         match message := decode(text):
#             case Echo():
#                 member.reply(message)
#             case Ping():
#                 member.reply(Pong(message.ref))
#             case Refresh():
#                 self.refresh(member, message)
#             case Leave():
#                 self.leave(member, message.room)
#                 member.reply(Left(message.room, message.ref))
#             case Join() | Publish() if not member.identity.may_enter(message.room):
#                 raise BadMessage("forbidden", "not a room of the token", message.ref)
#             case Join():
#                 self.join(member, message)
#             case Publish():
#                 self.publish(member, message)
#
#     def join(self, member, message) -> None:
#         room = message.room
#         self.members.setdefault(room, set()).add(member)
#         self.rooms.setdefault(member, set()).add(room)
#         epoch, seq = self.numbers.setdefault(room, [secrets.token_hex(4), 0])
#         member.reply(Joined(room, epoch, seq, False, message.ref))
#
#     def publish(self, member, message) -> None:
#         room, there = message.room, self.members.get(message.room, set())
#         number = self.numbers.get(room, ["", 0])
#         number[1] += 1
#         said = event(room, number[1], body(member.identity.user, message.payload))
#         chunks = {v: chunk(v, room, [said]) for v in {each.variant for each in there}}
#         for each in there:
#             each.outbox.deliver(chunks[each.variant])
#         if message.ref is not UNSET:
#             member.reply(Ack(room, number[1], message.ref))
#
#     def leave(self, member, room: str) -> None:
#         self.rooms.get(member, set()).discard(room)
#         self.members.get(room, set()).discard(member)
#         if not self.members.get(room):
#             self.members.pop(room, None)
#             self.numbers.pop(room, None)
#
#     def closed(self, member) -> None:
#         for room in self.rooms.pop(member, set()):
#             self.leave(member, room)
# ```
#
# </details>

# %% tags=["build"]
import secrets

from msgspec import UNSET

from labserver.contract.decoding import decode
from labserver.contract.messages import (
    Ack,
    Echo,
    Join,
    Joined,
    Leave,
    Left,
    Ping,
    Pong,
    Publish,
    Refresh,
    Refreshed,
    body,
    event,
)
from labserver.contract.wire import chunk
from labserver.errors import BadMessage


class MyRooms:
    def __init__(self, lab) -> None:
        self.members = {}  # by room: the set of its members
        self.rooms = {}  # by member: the set of its rooms
        self.numbers = {}  # by room: its epoch, and its newest seq
        self.lab = lab

    def refresh(self, member, message) -> None:
        """Give a member a new token, if it is good; else end it. (Chapter 2.)"""
        answer = self.lab.admission.refresh(member, message.token)
        if answer is not None:
            member.reply(Refreshed(answer.expires, message.ref))

    async def receive(self, member, text: str) -> None: ...

    def closed(self, member) -> None: ...


# %%
await probe(MyRooms)

# %% [markdown]
# The stage does less itself. It gives each message to a *broker*, which numbers it, and
# the *hub* has the index of members and sends. So the messages of one turn of the event
# loop share a write (a check that is not asked of your class), and in chapter 6 another
# broker is enough for several servers. The stage also limits in how many rooms a
# connection may be, lets a client leave the rooms that its new token does not name, and
# its broker keeps a numbering for some time after the last member has left.

# %% [markdown]
# ## Mistakes

# %%
await compare("rooms", "write-per-message")

# %%
await mistakes("rooms")

# %% [markdown]
# ## Load
#
# This measures fan-out with many clients, and shows beside every percentile how many
# messages arrived:
#
#     locust -f loadtests/fanout.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# When a member's network fails, the server does not notice, and the member stays in its
# rooms. Next: **4 · Heartbeats**.
