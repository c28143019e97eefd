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
# **Promise:** every well-formed message comes back. · *about 40 minutes*
#
# A WebSocket begins as an HTTP request and then becomes two streams of small frames. In
# this chapter you write the request by hand, byte by byte, then a frame, and at last
# the server's side of both.

# %%
from labserver.notebook import (
    check,
    compare,
    frame_map,
    mistakes,
    my_guess,
    probe,
    raw,
    running,
    show,
    take_apart,
)
from labserver.stages import echo

# %% [markdown]
# ## Break: ask without an upgrade
#
# In HTTP the client asks one question and gets one answer. The server cannot speak
# first, and it cannot answer twice. Here is a plain request to a WebSocket server:

# %%
async with running("echo") as server, raw(server) as wire:
    await wire.send("GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    print((await wire.response()).strip())

# %% [markdown]
# The server answers `426 Upgrade Required` and closes the connection: the client must
# ask for the WebSocket protocol.
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
# This is the whole stage. The code that listens, shakes hands and reads frames is in
# `labserver/server`, and is the same for all seven stages.

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
# The server answers `101` with an accept key. The accept key proves that the server
# understood the request: it is the SHA-1 of the client's key and a fixed text,
# `258EAFA5-E914-47DA-95CA-C5AB0DC85B11`. A cache or an HTTP server that does not know
# WebSockets would not answer like that. The accept key does not prove who the other
# side is; the next chapter is about that.
#
# ## Run: a frame by hand
#
# From here on both sides send frames. The first byte of a frame gives its kind (`81`: a
# whole text message), the second its length. A client also masks the payload with four
# random bytes. Otherwise a page could make a browser write bytes of the page's choice,
# such as an HTTP request, and a careless proxy might act on them.

# %%
text, mask = b'"hello"', bytes.fromhex("37fa213d")
masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
sent = b"\x81" + bytes([0x80 | len(text)]) + mask + masked

async with running("echo") as server, raw(server) as wire:
    await wire.upgrade()
    await wire.send(sent)
    await wire.send(b"\x89\x80" + mask)  # a ping: empty, masked
    answer = await wire.frames(2)

take_apart(sent + answer)

# %% [markdown]
# Read the rows from the left. `FIN` 1: the message ends with this frame. `RSV` 000: no
# extension (a compressed frame has 100). `opcode`: 1 text, 2 binary, 8 close, 9 ping,
# 10 pong. `MASK` 1 from the client, 0 from the server. The table leaves out the ping,
# which was sent after the text. A pong has the payload of its ping, and this ping was
# sent without any, so the length of the pong is 0. The lab has no code that answers a
# ping: the library sends the pong.
#
# ## Observe: one frame, bit by bit

# %% tags=["picture"]
frame_map(
    take_apart(sent)[0], title="A frame from a client: 6 bytes around a text of 7"
)

# %% [markdown]
# A head of two bytes and a mask of four come before the text. A server's frames are
# never masked, so the same bytes may go to thousands of clients. Chapter 3 makes use of
# that.

# %%
compare(my_guess, len(sent), "bytes")

# %% [markdown]
# ## Exercise: the accept key
#
# Compute the accept key that the server answered. Concatenate key and GUID, take the
# SHA-1 of the result, and return it in base64, as text.
#
# <details><summary>Hint</summary>
#
# `hashlib.sha1(...).digest()` returns 20 bytes; `base64.b64encode(...)` returns
# `bytes`, so decode it.
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
# ## Run: longer frames, longer heads
#
# The second byte has seven bits for the length. Values up to 125 are the length itself;
# 126 means that the length follows in two bytes, 127 that it follows in eight. So the
# head of a server's frame has 2, 4 or 10 bytes.

# %%
async with running("echo") as server, raw(server) as wire:
    await wire.upgrade()
    answers = b""
    for count in (99, 100, 65_530):
        await wire.say('"' + "x" * (count - 2) + '"')
        answers += await wire.frames(1)

take_apart(answers)

# %% [markdown]
# ## Run: messages that are not well formed
#
# Any JSON value is a message at this stage. A text that is not JSON is answered with an
# error, and the connection stays open: one broken message must not end the connection,
# and certainly not the process.

# %%
async with running("echo") as server, raw(server) as wire:
    await wire.upgrade()
    for text in ("[1, 2.50]", "null", '{"type": "dance"}', "{broken", "42"):
        await wire.say(text)
        (answer,) = take_apart(await wire.frames(1))
        print(f"{text:17} -> {answer.payload.decode()}")

# %% [markdown]
# These are the texts of the answers. The value in an echo is as it was written: `2.50`
# is still `2.50`. A server that decodes and encodes each value would send `2.5`.

# %% [markdown]
# ## Build: your own WebSocket server
#
# Now write the server's side, on nothing but a TCP connection. `my_server` is called
# for each one that a client opens; when it returns, the connection is over. It needs
# three things:
#
# - `shake_hands` reads the request, up to an empty line, and answers it with `101`;
# - `read_frame` reads one frame of a client and removes its mask. A frame over `LIMIT`
#   is not read: `raise Ends(1009)`;
# - `my_server` sends `hello()`, and then makes messages of frames. A text may come in
#   fragments: a `TEXT` frame without `FIN`, and `CONTINUATION` frames up to one that
#   has it. The whole one goes to `answer`, and its answer back in a `TEXT` frame. A
#   `PING` may come at any time, and is answered with a `PONG` of the same data, a
#   `CLOSE` with a `CLOSE` of the same code. A binary frame ends the connection with
#   1003, a message over `LIMIT` with 1009, one that is no UTF-8 with 1007.
#
# What is not about WebSockets is given, and `frame`, which makes a server's frame.
# `probe` serves real connections with your function, and asks it what `labserver judge`
# asks any server of this stage.
#
# <details><summary>Hint</summary>
#
# `await reader.readuntil(b"\r\n\r\n")` returns the head of the request, and
# `await reader.readexactly(n)` the next `n` bytes; `read(n)` may return fewer. Two
# bytes come first: `first & 0x80` is `FIN`, `first & 0x0F` the opcode, `second & 0x7F`
# the length, or 126 or 127. `int.from_bytes(data, "big")` makes a number of bytes, and
# `number.to_bytes(2, "big")` bytes of a number. `re.search` finds the key in the head,
# whose names may be in capitals or not. Collect the data of a message in one
# variable, outside of the loop; only a whole text is decoded. `try` around the loop
# makes a close frame of each `Ends`. When a client just goes, reading raises
# `IncompleteReadError`: let it.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import base64
# import hashlib
# import re
# import uuid
#
# from labserver.contract.decoding import well_formed
# from labserver.contract.messages import Echo, Error, Hello, encode
# from labserver.errors import BadMessage
#
# GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# LIMIT = 65536  # bytes of a message
#
#
# class Ends(Exception):
#     """The connection has to end; such as Ends(1009), with its code."""
#
#
# def hello() -> bytes:
#     """Return the first message to each client."""
#     return encode(Hello(uuid.uuid4().hex, "anonymous", "echo", "mine", None))
#
#
# def answer(text: str) -> bytes:
#     """Return the echo of a message, or an error."""
#     try:
#         return encode(Echo(well_formed(text)))
#     except BadMessage as exc:
#         return encode(Error(exc.code, exc.detail))
#
#
# def frame(opcode: int, data: bytes) -> bytes:
#     """Return a server's frame: a whole one, and not masked."""
#     size = len(data)
#     if size < 126:
#         head = bytes([size])
#     elif size < 65536:
#         head = b"\x7e" + size.to_bytes(2, "big")
#     else:
#         head = b"\x7f" + size.to_bytes(8, "big")
#     return bytes([0x80 | opcode]) + head + data
#
#
# async def shake_hands(reader, writer) -> None:
#     head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
#     key = re.search(r"(?i)\nsec-websocket-key: *(\S+)", head)[1]
#     accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest())
#     writer.write(
#         b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
#         b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
#     )
#
#
# async def read_frame(reader) -> tuple[bool, int, bytes]:
#     first, second = await reader.readexactly(2)
#     size = second & 0x7F
#     if size > 125:
#         more = await reader.readexactly(2 if size == 126 else 8)
#         size = int.from_bytes(more, "big")
#     if size > LIMIT:
#         raise Ends(1009)
#     mask, data = await reader.readexactly(4), await reader.readexactly(size)
#     data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
#     return bool(first & 0x80), first & 0x0F, data
#
#
# async def my_server(reader, writer) -> None:
#     await shake_hands(reader, writer)
#     writer.write(frame(TEXT, hello()))
#     message = b""  # what has come of it
#     try:
#         while True:
#             last, opcode, data = await read_frame(reader)
#             if opcode == PING:
#                 writer.write(frame(PONG, data))
#             elif opcode == CLOSE:
#                 raise Ends(int.from_bytes(data[:2], "big") or 1000)
#             elif opcode == BINARY:
#                 raise Ends(1003)
#             elif opcode in (TEXT, CONTINUATION):
#                 message += data
#                 if len(message) > LIMIT:
#                     raise Ends(1009)
#                 if last:
#                     writer.write(frame(TEXT, answer(message.decode())))
#                     message = b""
#             await writer.drain()
#     except Ends as end:
#         writer.write(frame(CLOSE, end.args[0].to_bytes(2, "big")))
#     except UnicodeDecodeError:
#         writer.write(frame(CLOSE, (1007).to_bytes(2, "big")))
# ```
#
# </details>


# %% tags=["build"]
import base64
import hashlib
import re
import uuid

from labserver.contract.decoding import well_formed
from labserver.contract.messages import Echo, Error, Hello, encode
from labserver.errors import BadMessage

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 65536  # bytes of a message


class Ends(Exception):
    """The connection has to end; such as Ends(1009), with its code."""


def hello() -> bytes:
    """Return the first message to each client."""
    return encode(Hello(uuid.uuid4().hex, "anonymous", "echo", "mine", None))


def answer(text: str) -> bytes:
    """Return the echo of a message, or an error."""
    try:
        return encode(Echo(well_formed(text)))
    except BadMessage as exc:
        return encode(Error(exc.code, exc.detail))


def frame(opcode: int, data: bytes) -> bytes:
    """Return a server's frame: a whole one, and not masked."""
    size = len(data)
    if size < 126:
        head = bytes([size])
    elif size < 65536:
        head = b"\x7e" + size.to_bytes(2, "big")
    else:
        head = b"\x7f" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + head + data


async def shake_hands(reader, writer) -> None:
    # Read the request, answer 101 with the accept key.
    ...


async def read_frame(reader) -> tuple[bool, int, bytes]:
    # Return FIN, the opcode, and the data without their mask.
    ...


async def my_server(reader, writer) -> None:
    # The handshake, the hello; then frame after frame.
    ...


# %%
await probe(my_server)

# %% [markdown]
# After your function returns, `probe` reads on for a moment before it closes: a
# connection that is closed with unread bytes is reset, and the reset may overtake your
# close frame. A server for the open internet needs more, a few lines each: a time limit
# for the handshake, an end with 1002 for what the protocol forbids (a frame without a
# mask, a continuation of nothing), and an answer to a request that is no handshake.
# `labserver starter stdlib` prints one that has all of that. From here on the lab
# leaves frames to a library, `websockets`, and looks at what comes after them.

# %% [markdown]
# ## Mistakes
#
# There are three well-known wrong versions of this stage, each a few lines long. The
# cells below run each of them against a probe of the promise that it breaks.
# `labserver serve --mistake unguarded-parse` runs a server with one of them.

# %%
await compare("echo", "unguarded-parse")

# %%
await mistakes("echo")

# %% [markdown]
# ## Load
#
# Set the same `LAB_SECRET` in two terminals. Run `labserver serve` in one, and in the
# other:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# The server does not ask clients for a name. Anyone who finds the port gets a socket,
# and so does a page of any other site that a user has open. Next: **2 · Auth**.
