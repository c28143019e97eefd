# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Binary and compression
#
# **Promise:** a frame is built once for all who can read it, also when it is
# compressed. · *about 30 minutes*
#
# There are two ways to smaller frames: `permessage-deflate` compresses them, and CBOR
# writes the same objects in fewer bytes than JSON. This chapter measures what both save
# on the wire, and what they cost the server in CPU time and memory. And it shows why
# one decision, to keep no memory between messages, makes compression cheap for a room.

# %%
from labserver.contract import wire
from labserver.notebook import (
    bars,
    check,
    compare,
    excerpt,
    fitted,
    footprint,
    growth,
    my_guess,
    quotes,
    raw,
    running,
    show,
)
from labserver.notebook.experiments.codings import FORMS
from labserver.notebook.peers import asked

# %% [markdown]
# ## Break: one compressor for a room
#
# A compressor looks for text that it has seen before, and writes a reference to it
# instead of the text. So it is best to keep it from one message to the next: RFC 7692
# calls that *context takeover*, and it is the default. And it is cheapest to compress
# once, and send the same bytes to all. Ann is in the room from the start; Bob enters
# after the first message.

# %%
TAIL = b"\x00\x00\xff\xff"  # the end of each message, which is not sent

import json
import zlib

room = zlib.compressobj(wbits=-12)


def packed(payload) -> bytes:
    data = room.compress(json.dumps(payload).encode())
    return (data + room.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


ann, bob = zlib.decompressobj(wbits=-12), zlib.decompressobj(wbits=-12)
first, second = packed(quotes(1)), packed(quotes(2))
ann.decompress(first + TAIL)
print("ann reads:", ann.decompress(second + TAIL)[:48], "...")
try:
    print("bob reads:", bob.decompress(second + TAIL))
except zlib.error as error:
    print("bob:", error)

# %% [markdown]
# The second message refers to the first, which Bob does not have. With context
# takeover, every member needs a compressor of its own, which has seen what this member
# has seen. Then every message is compressed once for each member.
#
# ## Predict
#
# Ten thousand clients are connected. For each of them a server keeps a compressor and a
# decompressor, with the default settings of zlib (a window of 32 kB). How many
# megabytes does zlib allocate for them? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# This server forgets after each message, in both directions. A *variant* is what a
# client agreed on in its handshake: the subprotocol, and the size of the window (0: no
# compression). The frame depends on the variant and the message, and on nothing else.

# %%
excerpt("labserver/contract/wire.py", "Variant", "deflate_offer", "frame", "_deflate")

# %% [markdown]
# Members are kept by variant, so a room builds a frame once for each *variant* that is
# there: this is `flush` in `labserver/server/hub.py`, and chapter 3 shows it. The
# messages of this chapter are prices:

# %%
show(quotes)

# %% [markdown]
# ## Run: the handshake
#
# A client offers what it can, as headers of its request. A browser that runs
# `new WebSocket(url, ["lab.cbor", "lab.json"])` offers this:

# %%
offers = {
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Protocol": "lab.cbor, lab.json",
}
async with running("rooms") as server, raw(server) as line:
    token = {"Authorization": f"Bearer {server.token()}"}
    await line.send(asked(server, offers | token))
    answer = await line.response()
for header in answer.splitlines():
    if header.partition(":")[0] in offers:
        print(header.replace("; ", ";\n    "))

# %% [markdown]
# The server takes the first subprotocol that it knows. `server_no_context_takeover` is
# its own promise to forget: with it a compressed frame may go to everybody.
# `client_no_context_takeover` asks the client to forget as well: so the server needs no
# decompressor between two messages.
#
# ## Run: what a frame weighs, and what it takes to build it
#
# Three messages, in four forms. The bytes are those of the frame with its head, as the
# server sends it.

# %%
import json

from labserver.contract.messages import body, event

payloads = {
    "a word": "hello",
    "prices": quotes(1),
    "a hundred numbers": list(range(100, 200)),
}
weights = {form: {} for form in FORMS}
for name, payload in payloads.items():
    text = json.dumps(payload, separators=(",", ":")).encode()
    message = event("lobby", 12345, body("ann", text))
    for form, variant in FORMS.items():
        weights[form][name] = len(wire.frame(variant, message.json))
for form, sizes in weights.items():
    print(f"{form:14}", ", ".join(f"{name}: {n} B" for name, n in sizes.items()))

# %% [markdown]
# ## Observe

# %%
bars(
    {
        f"{name}, bytes": {form: sizes[name] for form, sizes in weights.items()}
        for name in payloads
    },
    title="One message as a frame, with its head",
)

# %% [markdown]
# - A short message is not compressed at all (`COMPRESS_FROM`): it would hardly shrink.
# - CBOR saves quotes, commas and digits, so a list of small numbers shrinks by nearly
#   half. It does not save the names of the fields.
# - Compression saves what comes again, such as those names. Compressed, the prices are
#   even shorter as JSON: CBOR writes a price as nine bytes that look like noise, JSON
#   as four or five digits and a point.
#
# And what does it take the server to build each? The time is CPU time of this process
# for the prices, the best of five rounds over two hundred different messages.

# %%
import time

news = [
    event("lobby", n, body("ann", json.dumps(quotes(n)).encode())).json
    for n in range(200)
]
for form, variant in FORMS.items():
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for text in news:
            wire.frame(variant, text)
        rounds.append((time.process_time() - start) / len(news) * 1e6)
    print(f"{form:14} {min(rounds):5.1f} µs a frame")

# %% [markdown]
# The JSON frame costs next to nothing, because the server does not look into a payload:
# it copies the publisher's bytes. For CBOR it has to decode the JSON and encode it
# again. For a client that publishes CBOR, the same happens in the other direction.
#
# One thing CBOR could do is refused: bytes. A room may have members of both
# subprotocols, and JSON has no bytes. So CBOR here is another way to write the same
# objects, and a picture has to go in as text (base64), or by another way.

# %%
import cbor2

from labserver.contract.cbor import from_cbor
from labserver.errors import BadMessage

picture = {"type": "publish", "room": "lobby", "payload": b"\x89PNG"}
try:
    from_cbor(cbor2.dumps(picture))
except BadMessage as error:
    print(error.code, "-", error.detail)

# %% [markdown]
# ## Run: the price of one more member
#
# Chapter 3 measured T = a + bN: what a message costs, and what it costs for each
# member. Does compression belong to `a` or to `b`? The last of these runs is a server
# with the mistake `encoded-per-member`: it builds each frame again for every member, as
# it would have to with context takeover. The servers get their messages in turns.

# %%
lines = await growth(
    {
        "plain": {"form": "JSON"},
        "deflate, one frame": {"form": "JSON, deflate"},
        "deflate, a frame each": {
            "form": "JSON, deflate",
            "mistake": "encoded-per-member",
        },
    }
)
for name, line in lines.items():
    print(f"{name:22} {line}")

# %% [markdown]
# ## Observe: the room that grows

# %% tags=["picture"]
fitted(
    {name: (line.members, line.taken) for name, line in lines.items()},
    title="What one message costs the server, by the size of its room",
    x="members N",
    y="CPU time a message, µs",
)

# %% [markdown]
# With a shared frame, compression is part of `a`: in a room of any size the message is
# compressed once, and the line with compression lies close to the plain one. With a
# frame for each member it is part of `b`, and the line is much steeper. (For this, and
# for its memory, `ws` for Node has compression turned off unless one asks for it.)
#
# ## Run: memory
#
# First a compressor and a decompressor as a server keeps them for each client with
# context takeover, after a message in both directions: with zlib's defaults, and with a
# small window and little memory (`memLevel=5`), which is what the library `websockets`
# takes. `tracemalloc` counts what is allocated.

# %%
import json
import tracemalloc
import zlib

CLIENTS, text = 50, json.dumps(quotes(1)).encode()
settings = {"zlib's defaults": (15, 8), "a small window": (12, 5)}
sizes = {}
for name, (window, level) in settings.items():
    tracemalloc.start()
    kept = []
    for _ in range(CLIENTS):
        encoder = zlib.compressobj(wbits=-window, memLevel=level)
        decoder = zlib.decompressobj(wbits=-window)
        data = encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH)
        decoder.decompress(data)
        kept.append((encoder, decoder))
    sizes[name] = tracemalloc.get_traced_memory()[0] / CLIENTS / 1000
    tracemalloc.stop()
    print(f"{name:15} {sizes[name]:.0f} kB for each client")

# %%
compare(my_guess, round(sizes["zlib's defaults"] * 10_000 / 1000), "MB")

# %% [markdown]
# Now a whole connection of this server, which has heard a message and waits for the
# next one. Three hundred members come without compression, then three hundred with it.

# %%
whole = {"plain": await footprint("JSON")}

# %%
whole["deflate"] = await footprint("JSON, deflate")
for name, size in whole.items():
    print(f"{name:15} {size:.1f} kB for each client")

# %% [markdown]
# ## Observe: one client

# %%
bars(
    {
        "kB for each client": {
            "a connection": round(whole["plain"], 1),
            "one that compresses": round(whole["deflate"], 1),
            "+ small window": round(whole["deflate"] + sizes["a small window"]),
            "+ zlib's defaults": round(whole["deflate"] + sizes["zlib's defaults"]),
        }
    },
    title="Memory of the server: what a kept compressor and decompressor would add",
)

# %% [markdown]
# The first two bars are measured on this server, the other two are sums. A client of
# this server that compresses costs hardly more than one that does not, because nothing
# of zlib outlives a message.
#
# ## Run: what forgetting costs
#
# There is a price. A compressor that begins anew has to write all names again in each
# message. So 192 messages of prices, with a compressor for each and with one for all;
# and with sixteen at a time as one message.

# %%
import json
import zlib


def total(texts: list[bytes], keep: bool) -> int:
    """Return the bytes of all texts, compressed one by one."""
    size, encoder = 0, zlib.compressobj(wbits=-12, memLevel=5)
    for text in texts:
        if not keep:
            encoder = zlib.compressobj(wbits=-12, memLevel=5)
        packed = encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH)
        size += len(packed) - 4
    return size


texts = [json.dumps(quotes(n), separators=(",", ":")).encode() for n in range(192)]
joined = [b"[" + b",".join(texts[n : n + 16]) + b"]" for n in range(0, 192, 16)]
bars(
    {
        "bytes for each message": {
            "not compressed": sum(map(len, texts)) // 192,
            "alone": total(texts, keep=False) // 192,
            "16 in one message": total(joined, keep=False) // 192,
            "context kept": total(texts, keep=True) // 192,
        }
    },
    title="Messages that are alike, compressed",
)

# %% [markdown]
# Alone, such a message shrinks to about half. With the context kept, it shrinks to half
# of that again. So context takeover is right where bytes are dear, clients are few, and
# each gets messages of its own. A publisher in a room who can wait a moment gets the
# difference back without it, with several items in one message.
#
# ## Exercise: who shares a frame?
#
# `members` maps each name to what its handshake agreed on: the subprotocol (`None`:
# none was agreed, which means `"lab.json"`), and the bits of the window (0: no
# compression; otherwise 9 to 15). A server may compress with a *smaller* window than
# was agreed, never with a larger one. This server uses the windows 12 and 9, for each
# member the largest that is allowed.
#
# Return the members who share a frame: a dictionary from `(subprotocol, window)` to the
# list of their names, in the order of `members`. The window is 0, 9 or 12.
#
# <details><summary>Hint</summary>
#
# `next((each for each in (12, 9) if each <= agreed), 0)` is the first window that fits,
# or 0 if none does. A dictionary's `setdefault(key, [])` returns the list, also when it
# had to put it there.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def sharing(members: dict) -> dict:
#     found = {}
#     for name, (subprotocol, agreed) in members.items():
#         window = next((each for each in (12, 9) if each <= agreed), 0)
#         variant = (subprotocol or "lab.json", window)
#         found.setdefault(variant, []).append(name)
#     return found
# ```
#
# </details>


# %% tags=["exercise"]
def sharing(members: dict) -> dict:
    # Six lines.
    ...


# %%
check(sharing)

# %% [markdown]
# ## Mistakes

# %%
await compare("rooms", "encoded-per-member")

# %% [markdown]
# ## Load
#
# The clients of the load tests ask for plain JSON. They show what the fan-out costs
# without compression, which is the line to compare your own clients with:
#
#     locust -f loadtests/fanout.py --headless --host ws://127.0.0.1:8080 \
#         -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Compression helps attackers, too. A small frame may unfold into a huge message:
# the server stops at `--message-size-limit` (close code 1009). And whoever can put text
# beside a secret in the same compressed message can learn the secret from the length
# (CRIME and BREACH did this to HTTP). A compressor that forgets sees one message only;
# so do not put a secret into a message with what others wrote.
#
# Next: **13 · Who is here**.
