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
# Every chapter has the same form: break the previous stage, predict a number, read the
# module that mends it, run it, look at one picture, solve one exercise. Run the cells
# from the top with Shift+Enter. After a restart of the kernel, run the next cell, then
# continue at any heading.

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
# This cell does the same as `labserver doctor` in a terminal. If the machine has no
# Redis, the lab uses one from a Python package. A busy port does not matter: the
# chapters use free ports.

# %%
await doctor()

# %% [markdown]
# ## Your first message
#
# `running` starts a server as a separate process and stops it at the end of the block,
# also when you interrupt the cell. `connected` is a plain client with a token.

# %%
async with running("resume") as server, connected(server, "ann", "lobby") as ann:
    await ann.publish("lobby", "hello, world")
    await ann.messages(1)
print(ann.hello)
print(ann.received[-1])

# %% [markdown]
# The server sent `hello` without being asked: on a WebSocket either side may speak
# first. Then the message came back from the room, with a number and its sender's name.
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
# Ann got an echo, and Bob got nothing: at this stage the server does not know rooms.
# Each stage adds one such idea, and keeps the promises of the earlier stages.
#
# ## Predict
#
# Seven modules turn a bare server into the production server of the last stage. How
# many lines do they have together, comments included? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# A server has six parts. A stage is a function that replaces one of them. A short loop
# applies the stages one after another.

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
# Each column is a server, `labserver serve --stage NAME`. A dark box is the part that
# the stage replaces; the pale boxes to its right are later stages that keep its
# promise.

# %% tags=["picture"]
stage_map()

# %%
compare(my_guess, sum(stage.lines for stage in stages.STAGES.values()), "lines")

# %% [markdown]
# ## Exercise: the first words
#
# A client sends messages as JSON texts. Return two of them, in this order: `join` with
# the `room`, then `publish` with `room` and `payload`.
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
# The check calls your function with several inputs, recognises the usual wrong answers,
# and says why they are wrong. Try one: return two dictionaries instead of texts.
#
# ## Mistakes
#
# A test of a promise is worth little if no server can fail it. So every stage comes
# with its well-known mistakes, as servers that run, and with probes that find them. The
# next cell runs one probe on stage 3 and on a mistaken version of it, which adds a new
# listener to a room at every join, as programs with event emitters do.

# %%
await compare("rooms", "listener-per-join")

# %% [markdown]
# ## Load
#
# The chapters measure on a small scale. To load the same server with many clients, run
# `make load` in a terminal; or, with a server of your own:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# You have seen the last stage, and that the first one does nearly nothing. The next
# chapters add what lies between, stage by stage. Next: **1 · Handshake and echo**.
