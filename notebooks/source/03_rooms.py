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
# **Promise:** a message reaches everyone in its room, once. · *about 20 minutes*
#
# Speaking to a group is what a WebSocket server is for, and where its time goes. What
# costs is not the message, it is the system call for each member.

# %%
from labserver.notebook import (
    check,
    compare,
    connected,
    costs,
    crowd,
    curves,
    flames,
    mistakes,
    my_guess,
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
# makes 1280 deliveries. How many writes to sockets does the server need for them? Set a
# number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The stage decides what messages mean; the hub keeps the two indexes (a room's members,
# a connection's rooms) and delivers. First what happens to a message between the broker
# and the sockets, then the stage.

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
    await eve.ask(type="ping")  # whatever was sent to her came before the pong
for name, peer in {"ann": ann, "bob": bob, "eve": eve}.items():
    print(name, peer.of("message"))

# %% [markdown]
# Ann gets her own message as everybody does, with its number. She could show it at once
# instead; but then she would see another order than the others.
#
# ## Run: the price of one more member
#
# A message has a fixed price (read, parse, number) and a price for each member who gets
# it: T = a + bN. We publish one message at a time into rooms of five sizes, and read
# how much CPU time the server took. On a busy machine the points scatter; the line is
# what counts.

# %%
cost = await costs("rooms")
print(cost)

# %% [markdown]
# ## Observe

# %% tags=["picture"]
start, slope = cost.fit
curves(
    {
        "measured": (cost.members, cost.taken),
        f"{start:.0f} + {slope:.1f} N": (cost.members, cost.line),
    },
    title="What one message costs the server, by the size of its room",
    x="members N",
    y="CPU time a message, µs",
    points=True,
)

# %% [markdown]
# Most of the slope is the system call: one `write` for each member. A faster parser, a
# faster language would change `a`. Two things keep the slope as low as it is.
#
# ## Run: encode once
#
# A server's frames are not masked, so one frame fits all. The classic loop encodes for
# each member. Both here as plain functions that write to `/dev/null`, a system call
# without a network, for a room of 50; and sampled a thousand times a second.

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
# A box's width is its part of the time, whatever the time is: the heading says that. In
# the upper graph the mountain stands on `encode`; in the lower one `write` is what is
# left. Look for a wide top that grows with the members but not with the work. Every
# message arrives either way, and so nobody notices before the profile.
#
# ## Run: one write a tick
#
# The server counts both. Twenty members; one publishes 1, 2, 4, ... 64 messages in one
# go.

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
# Messages that reach a room during one turn of the event loop are joined, and each
# member gets them in one write. The frames are built once and shared by all members.
# Under load this is the whole difference: the busier the room, the cheaper a delivery.
#
# ## Exercise: forget a connection
#
# `members` maps a room to who is in it, `rooms` a connection to the rooms it is in.
# Connection `who` has ended: clean both. Change the dictionaries in place; a room that
# nobody is in any more must not stay.
#
# <details><summary>Hint</summary>
#
# `rooms.pop(who, set())` gives the rooms and forgets the connection. Then look at each
# of these rooms, at all of them.
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
# ## Mistakes

# %%
await compare("rooms", "write-per-message")

# %%
await mistakes("rooms")

# %% [markdown]
# ## Load
#
# Fan-out for real, with completeness beside every percentile:
#
#     locust -f loadtests/fanout.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# A member whose network vanished stays a member. Next: **4 · Heartbeat**.
