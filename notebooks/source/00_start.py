# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0 · Start here
#
# **Promise:** a minute from now your first message has gone through a real server. ·
# *about 5 minutes*
#
# Every chapter has the same form: break the stage before, predict a number, read the
# module that mends it, run it, look at one picture, solve one exercise. Run the cells
# from the top with Shift+Enter. After a restart of the kernel run the next cell, then
# begin at any heading.

# %%
from labserver import stages
from labserver.notebook import (
    check,
    compare,
    connected,
    doctor,
    my_guess,
    running,
    show,
    stage_map,
)
from labserver.server import parts

# %% [markdown]
# ## What is here
#
# The same as `labserver doctor` in a terminal. Redis comes with the package where the
# machine has none; a busy port is no trouble, the chapters take free ones.

# %%
await doctor()

# %% [markdown]
# ## Your first message
#
# `running` starts a server as a process of its own and stops it with the block, also
# when you interrupt the cell. `connected` is a plain client with a token.

# %%
async with running("resume") as server, connected(server, "ann", "lobby") as ann:
    await ann.publish("lobby", "hello, world")
    await ann.messages(1)
print(ann.hello)
print(ann.received[-1])

# %% [markdown]
# The server said `hello` by itself: here both sides may speak first. Then the message
# came back from the room, with a number and the name of who said it.
#
# ## Break: the same on stage 1
#
# Ann and Bob on a server that has only its first stage.

# %%
async with (
    running("echo") as server,
    connected(server, "ann") as ann,
    connected(server, "bob") as bob,
):
    await ann.send(type="join", room="lobby")
    await ann.publish("lobby", "hello, bob")
    await ann.until(lambda: len(ann.received) == 2)
    heard = await bob.until(lambda: bob.received, within=0.5)
for each in ann.received:
    print("ann got:", each)
print("bob heard something:", bool(heard))

# %% [markdown]
# An echo, and nothing to anybody else: at this stage the server does not know what a
# room is. Each stage adds one such thing, and keeps what the earlier ones promised.
#
# ## Predict
#
# Seven modules make the production server of the last stage out of a bare one. How many
# lines do they have together, comments included? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# A server is six parts. A stage is a function that replaces one of them; the loop that
# puts the stages together is short.

# %%
show(parts.Parts, stages.build)

# %% [markdown]
# ## Run: the table of stages

# %%
for stage in stages.STAGES.values():
    print(f"{stage.number} {stage.name:13} {stage.lines:4} lines  {stage.promise}")

# %% [markdown]
# ## Observe: the map
#
# A column is a server, `labserver serve --stage NAME`. A full box is the part that this
# stage replaces, the pale ones right of it are kept promises.

# %% tags=["picture"]
stage_map()

# %%
compare(my_guess, sum(stage.lines for stage in stages.STAGES.values()), "lines")

# %% [markdown]
# ## Exercise: the first words
#
# A client talks in JSON texts. Return the two that enter a room and say something in
# it, in this order: `join` with the `room`, then `publish` with `room` and `payload`.
#
# <details><summary>Hint</summary>
#
# `json.dumps({"type": "join", "room": room})` is the first of the two.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import json
#
#
# def first_words(room: str, text: str) -> list[str]:
#     join = {"type": "join", "room": room}
#     publish = {"type": "publish", "room": room, "payload": text}
#     return [json.dumps(join), json.dumps(publish)]
# ```
#
# </details>


# %% tags=["exercise"]
def first_words(room: str, text: str) -> list[str]:
    # Three lines.
    ...


# %%
check(first_words)

# %% [markdown]
# The check tries your function on several cases, knows the usual wrong answers, and
# says why they are wrong. Try one: return the two as dictionaries.
#
# ## Mistakes
#
# A promise that nothing can break is not worth much. So every stage comes with its
# well-known mistakes, which run, and with probes that catch them. Here is one: rooms,
# and rooms as an event emitter would do them.

# %%
await compare("rooms", "listener-per-join")

# %% [markdown]
# ## Load
#
# The chapters measure on a small scale. The same server under a crowd, in a terminal:
# `make load`, or against a server of your own
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Everything: you have seen the last stage, and how little the first one can. Next:
# **1 · Handshake and echo**.
