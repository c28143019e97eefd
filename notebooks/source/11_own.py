# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · Your own server
#
# **Promise:** a server that you wrote keeps the promises of this lab, in your language
# and your editor. · *an afternoon; about 20 minutes for each stage*
#
# You have written parts of a server. Now write all of it: one file, which starts with
# an echo and gains one promise after another. Nothing of the lab is in it. The lab only
# starts it, talks to it as any client would, and says what it saw.

# %%
from labserver.notebook import (
    check,
    compare,
    duel,
    excerpt,
    judge,
    my_guess,
    starter,
)

# %% [markdown]
# ## Break: a server that only echoes
#
# `starter` writes the smallest server there is, on the library `websockets`. It is
# yours: it is written once, and never again over what you changed. With
# `starter("my_server.mjs")` it is for Node; for any other language, `judge` takes the
# command that starts your server, such as `judge("./my-server")`.
#
# Then the judge asks for the first two promises. The starter has been told of one.

# %%
print(starter("my_server.py"))
await judge("my_server.py", stage="auth")

# %% [markdown]
# ## Predict
#
# At the end of this chapter your server and the lab's get the same load, sixteen
# messages at once to fifty members. How many times the CPU time of the lab's server
# will a simple one need for each delivery? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# All that a client and a server say to each other is on one page,
# [the wire contract](reference/contract.md). Everything that the judge asks is there,
# and nothing else counts: how you do it is your affair.
#
# A program that is judged is told a few things through its environment:
#
# | variable | meaning |
# |---|---|
# | `PORT` | where to listen; the judge begins when the port answers |
# | `LAB_STAGE` | the last stage that is judged: before rooms, every value is echoed |
# | `LAB_SECRET` | signs the tokens |
# | `LAB_REDIS_URL` | from stage broker on |
# | `LAB_HEARTBEAT_INTERVAL`, `LAB_STUCK_TIMEOUT` | seconds |
# | `LAB_OUTBOX_LIMIT` | bytes that may wait for one client |
# | `LAB_HISTORY_LIMIT`, `LAB_HISTORY_TTL` | messages and seconds that a room keeps |
#
# This is the starter.

# %%
excerpt("labserver/judge/starters/python.py")

# %% [markdown]
# ## Run: one stage after another
#
# Open `my_server.py` in the editor beside this notebook, or in your own. After each
# step, run the step's cell. It asks for all promises from the first on, and stops at
# the first that is broken.
#
# In a terminal, `labserver judge --stage auth -- python my_server.py` says the same in
# more words: what was sent and received, when, and how to ask one check again.
#
# If you are stuck, [`reference/own_server.py`](reference/own_server.py) keeps all
# promises up to resume, in one file with a heading for each stage.
#
# ### Auth: no stranger gets a socket
#
# Check the token while the handshake is still HTTP: `serve` of `websockets` takes
# `process_request`, a function that may return a response instead of `None`. PyJWT
# checks a signature: pin the algorithm. Tokens also expire while a client is connected,
# and a browser names the page that it shows in the header `Origin`.

# %%
await judge("my_server.py", stage="auth")

# %% [markdown]
# ### Rooms: a message reaches everyone in its room, once
#
# From here on a message has a type, so only `echo` is echoed. A dictionary of rooms,
# each with its members and the number of its newest message; a set of rooms for each
# connection, for its end. `broadcast` of `websockets` writes to many and waits for
# nobody. What cannot be served is answered with an error, see the exercise below.

# %%
await judge("my_server.py", stage="rooms")

# %% [markdown]
# ### Heartbeat: a dead peer is gone within two intervals
#
# The library's own pings wait for room in the buffer of a peer that reads nothing, so
# turn them off with `ping_interval=None`. What you need is a time of the last bytes
# from each peer, pings that nobody waits for, and an end that asks no answer of the
# dead: `connection.transport.abort()`. A slow reader has your ping behind other
# messages, and is not dead while it takes them: `SIOCOUTQ` of chapter 5 says so.

# %%
await judge("my_server.py", stage="heartbeat")

# %% [markdown]
# ### Backpressure: a slow reader hurts only itself
#
# `connection.transport.get_write_buffer_size()` is what waits in your process for one
# client. Bound it, end those who are over it, and those who take nothing for
# `LAB_STUCK_TIMEOUT` while something waits for them.

# %%
await judge("my_server.py", stage="backpressure")

# %% [markdown]
# ### Broker and resume
#
# Two stages are left, and they are the longest. The judge starts your server twice, and
# its Redis is cut off, frozen, emptied and restarted; then clients come back with
# cursors that are too old, from the future, and of another room. Chapters 6 and 7 have
# the parts: number, keep and publish a message in one script; deliver only what comes
# back from Redis; a replay is complete, or it is none.

# %%
await judge("my_server.py", stage="resume")

# %% [markdown]
# ## Observe: side by side
#
# The same load for two servers, in turns, three rounds. One is the file of the
# reference, which sends each message by itself, as yours may do. The other is the
# lab's at the stage rooms. When yours keeps the promise of rooms, put its name here.

# %% tags=["picture"]
rivals = await duel("reference/own_server.py")
print(rivals)
rivals.picture()

# %%
compare(my_guess, rivals.ratio("16 in flight"), "times")

# %% [markdown]
# With one message in flight, both make one system call for each member, and that is
# most of the cost. With sixteen, the lab joins what reaches a room during one turn of
# its loop, and makes one call instead of sixteen. Chapter 3 shows where it does that.

# %% [markdown]
# ## Exercise: name the error
#
# A message has a type. `echo` and `publish` need a `payload`, whatever it is; `join`,
# `leave` and `publish` need a `room`, a string that matches `[A-Za-z0-9_.:-]{1,64}`.
# Return the code of the error for a message that cannot be served, `"unknown_type"`
# or `"bad_message"`; `None` if it can.
#
# <details><summary>Hint</summary>
#
# Ask for the type first: what a message of an unknown type needs, nobody knows.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import re
#
#
# def error_for(message: dict) -> str | None:
#     kind, room = message.get("type"), message.get("room")
#     if kind not in ("echo", "join", "leave", "publish", "ping"):
#         return "unknown_type"
#     named = isinstance(room, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", room)
#     if kind in ("join", "leave", "publish") and not named:
#         return "bad_message"
#     bare = kind in ("echo", "publish") and "payload" not in message
#     return "bad_message" if bare else None
# ```
#
# </details>


# %% tags=["exercise"]
def error_for(message: dict) -> str | None:
    # Seven lines.
    ...


# %%
check(error_for)

# %% [markdown]
# ## Load
#
# The load tests take any server. One that speaks the contract needs no more than its
# address, and the secret that it was started with:
#
#     LAB_SECRET=... locust -f loadtests --headless --scenario fanout,slow_readers \
#       --host ws://127.0.0.1:8080 -u 100 -r 100 -t 30s
#
# One with words of its own needs a dialect of some forty lines, see
# `loadtests/README.md`.
#
# ## What still breaks
#
# A judge finds what it asks for. It asks a few seconds long, on a machine without a
# network. What breaks after a week, behind a proxy, with clients that nobody wrote,
# shows only there: so measure what you run, and keep the judge in your tests
# (`labserver judge --junit FILE`).
#
# The lab's server has more than its promises. Next: **12 · Binary and compression**.
