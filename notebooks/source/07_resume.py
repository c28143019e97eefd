# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Resume
#
# **Promise:** a client that comes back misses nothing, or is told what it missed. ·
# *about 20 minutes*
#
# Every connection ends: tunnels, deploys, laptop lids. What counts is what a client
# knows after it came back.

# %%
from labserver import resume
from labserver.notebook import check, compare, connected, curves, running, show

# %% [markdown]
# ## Break: a short absence at stage 6
#
# Bob hears one message, goes, and comes back. He names the newest that he has, by epoch
# and number.


# %%
async def absence(server, room: str, messages: int) -> tuple[dict, list[int]]:
    """Say this many messages while Bob is away; return how he is welcomed back."""
    async with connected(server, "ann", room) as ann:
        async with connected(server, "bob") as bob:
            epoch = (await bob.join(room))["epoch"]
            await ann.publish(room, "before")
            await bob.messages(1)
            cursor = {"epoch": epoch, "seq": bob.of("message")[-1]["seq"]}
        await ann.publish(room, *range(messages))
        await ann.messages(messages + 1)
        async with connected(server, "bob") as bob:
            joined = await bob.join(room, after=cursor)
            await bob.ask(type="ping")  # what was sent to him came before the pong
            return joined, [message["seq"] for message in bob.of("message")]


async with running("broker") as server:
    joined, replayed = await absence(server, "lobby", 5)
print("recovered:", joined["recovered"], "· the room stands at", joined["seq"])
print("replayed: ", replayed)

# %% [markdown]
# The server is honest: `recovered` is false. But nothing can be done about it.
#
# ## Predict
#
# The next server keeps the newest 100 messages of a room. Bob is away for 160. How many
# of them does he get when he comes back? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The whole stage: it is short, because the broker keeps the messages, and the numbers
# are there since stage 3.

# %%
show(resume)

# %% [markdown]
# ## Run

# %%
async with running("resume") as server:
    joined, replayed = await absence(server, "lobby", 5)
print("recovered:", joined["recovered"], "· the room stands at", joined["seq"])
print("replayed: ", replayed)

# %% [markdown]
# ## Observe: loss against the length of the absence

# %%
away = [0, 20, 40, 60, 80, 100, 101, 120, 140, 160]


async def losses(stage: str, **settings) -> list[int]:
    async with running(stage, **settings) as server:
        answers = [await absence(server, f"room-{count}", count) for count in away]
    return [count - len(seen) for count, (_, seen) in zip(away, answers, strict=True)]


loss = {
    "broker": await losses("broker"),
    "resume": await losses("resume", history_limit=100),
}
curves(
    {stage: (away, lost) for stage, lost in loss.items()},
    title="Either all of it or none: a history of 100 messages",
    x="messages published while away",
    y="messages that never arrived",
    points=True,
    marks={"history": 100},
)

# %%
compare(my_guess, away[-1] - loss["resume"][-1], "of 160 messages")

# %% [markdown]
# Beyond the history the two lines are one. A partial replay would look better in this
# picture and be worse: the client would show a list with a hole in it and not know.
# `recovered: false` makes it load the present state from elsewhere, as when it was
# opened first. So the length of the history is chosen from the absences that should
# cost nothing, such as a tunnel or a deploy.
#
# ## Exercise: when to come back
#
# A server restarts, and ten thousand clients lose it in the same moment. Return the
# seconds to wait before attempt `attempt` (0 is the first): a uniform draw between 0
# and a ceiling, which starts at 0.5 s, doubles with each attempt and is at most 20 s.
# `draw()` returns a number from 0 to 1.
#
# <details><summary>Hint</summary>
#
# The ceiling first, with its cap; then the draw. And draw for attempt 0, too.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def delay(attempt: int, draw) -> float:
#     ceiling = min(20.0, 0.5 * 2**attempt)
#     return draw() * ceiling
# ```
#
# </details>


# %% tags=["exercise"]
def delay(attempt: int, draw) -> float:
    # Two lines.
    ...


# %%
check(delay)

# %% [markdown]
# ## Load
#
# The last stage is the production server; this measures all of it at once:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Redis is one process now as the server was before; a history is bounded; a client that
# was away too long must load its state elsewhere. None of these is hidden from the
# client, and that is what the seven promises are about. `labserver stages` lists them,
# and `labserver cluster --replicas 3` runs all of them on three replicas.
