# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · Handshake and echo
#
# **Promise:** every well-formed message comes back. · *about 15 minutes*
#
# A WebSocket begins as an HTTP request and ends as two streams of small frames. In
# this chapter you make the request by hand, byte by byte, and then a frame.

# %%
from labserver.notebook import (
    check,
    compare,
    connected,
    frame_map,
    mistakes,
    my_guess,
    raw,
    running,
    show,
    take_apart,
)
from labserver.stages import echo

# %% [markdown]
# ## Break: ask without an upgrade
#
# HTTP has one question and one answer. The server cannot speak first, nor a second
# time. Here is a plain request to the address of a WebSocket:

# %%
async with running("echo") as server, raw(server) as wire:
    await wire.send("GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    print((await wire.response()).strip())

# %% [markdown]
# `426`, and the connection is over: to go on, the client must ask for another protocol.
#
# ## Predict
#
# A client sends the JSON text `"hello"`, 7 bytes. How many bytes does its frame have?
# Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The whole stage. Everything that listens, shakes hands and reads frames is in
# `server.py`, and stays the same for all seven stages.

# %%
show(echo)

# %% [markdown]
# ## Run: the handshake by hand
#
# The client draws 16 random bytes and sends them in base64 as the key. This is the
# key from the RFC's own example; a real client must draw a new one each time.

# %%
key = "dGhlIHNhbXBsZSBub25jZQ=="
request = (
    "GET / HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\n"
    "Connection: Upgrade\r\n"
    "Upgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {key}\r\n"
    "\r\n"
)
async with running("echo") as server, raw(server) as wire:
    await wire.send(request)
    print((await wire.response()).strip())

# %% [markdown]
# `101`, and an accept key. It proves that the server understood the question: it put
# the key and a fixed text, `258EAFA5-E914-47DA-95CA-C5AB0DC85B11`, through SHA-1. No
# cache and no confused HTTP server answers like that. It proves nothing about who is
# there; that is the next chapter.
#
# ## Run: a frame by hand
#
# From here on both sides send frames. The first byte says what it is (`81`: a whole
# text message), the second how long. A client also masks what it sends with four
# random bytes, so that nobody can make a browser write chosen bytes, such as an HTTP
# request, to a server behind a careless proxy.

# %%
text, mask = b'"hello"', bytes.fromhex("37fa213d")
masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
sent = b"\x81" + bytes([0x80 | len(text)]) + mask + masked

async with running("echo") as server, raw(server) as wire:
    await wire.upgrade()
    await wire.send(sent)
    await wire.send(b"\x89\x80" + mask)  # a ping: nothing in it, masked
    answer = await wire.frames(2)

take_apart(sent + answer)

# %% [markdown]
# Read the rows from the left. `FIN` 1: the message ends with this frame. `RSV` 000: no
# extension (a compressed frame has 100). `opcode`: 1 text, 2 binary, 8 close, 9 ping,
# 10 pong. `MASK` 1 from the client, 0 from the server. The ping carries nothing, and
# nobody in the lab wrote code for its answer: the library sends the pong.
#
# ## Observe: one frame, bit by bit

# %% tags=["picture"]
frame_map(
    take_apart(sent)[0], title="A frame from a client: 6 bytes around a text of 7"
)

# %% [markdown]
# Two bytes of head and four of mask around the text. A server's frames are never
# masked, so the same bytes may go to thousands of clients. Chapter 3 lives on that.

# %%
compare(my_guess, len(sent), "bytes")

# %% [markdown]
# ## Exercise: the accept key
#
# Compute what the server answered. Join key and GUID, take the SHA-1 of it, return it
# in base64, as text.
#
# <details><summary>Hint</summary>
#
# `hashlib.sha1(...).digest()` gives 20 bytes, `base64.b64encode(...)` text as bytes.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import base64
# import hashlib
#
# GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#
#
# def accept_key(key: str) -> str:
#     digest = hashlib.sha1((key + GUID).encode()).digest()
#     return base64.b64encode(digest).decode()
# ```
#
# </details>

# %% tags=["exercise"]
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    # Two lines.
    ...


# %%
check(accept_key)

# %% [markdown]
# ## Longer: where the head grows
#
# Seven bits of length count to 125. 126 says that two more bytes follow, 127 that eight
# do. So a head from a server has 2, 4 or 10 bytes, whatever the message.

# %%
async with running("echo") as server, raw(server) as wire:
    await wire.upgrade()
    answers = b""
    for count in (99, 100, 65_530):
        await wire.say('"' + "x" * (count - 2) + '"')
        answers += await wire.frames(1)

take_apart(answers)

# %% [markdown]
# ## What comes back, and what does not
#
# Any JSON value is a message at this stage. What is not JSON gets an error, and the
# connection lives: one broken message must not end a conversation, let alone a process.

# %%
async with running("echo") as server, connected(server) as ann:
    for text in ("[1, 2.50]", "null", '{"type": "dance"}', "{broken", "42"):
        await ann.connection.send(text)
        await ann.until(lambda: len(ann.received) == 1)
        answer = ann.received.pop()
        print(f"{text:17} -> {answer.pop('type')}: {answer}")

# %% [markdown]
# ## Mistakes
#
# Three well-known wrong versions of this stage, each a few lines long, run against the
# probe of the promise that it breaks. `labserver serve --mistake unguarded-parse` runs
# one of them for you.

# %%
await compare("echo", "unguarded-parse")

# %%
await mistakes("echo")

# %% [markdown]
# ## Load
#
# Give two terminals the same `LAB_SECRET`. In one, `labserver serve`; in the other:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Nobody was asked for a name. Whoever finds the port gets a socket, and so does every
# page of every other site that a visitor has open. Next: **2 · Auth**.
