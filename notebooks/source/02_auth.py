# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Auth
#
# **Promise:** no stranger gets a socket. · *about 20 minutes*
#
# A socket costs memory for as long as it lasts, and everything that its owner may hear.
# The cheapest moment to say no is before it exists.

# %%
from labserver import auth
from labserver.notebook import (
    bars,
    check,
    compare,
    connected,
    running,
    show,
    strangers,
    upgrade,
)

# %% [markdown]
# ## Break: walk into stage 1
#
# Once as a stranger, once as a page of another site. The second is the subtle one: a
# browser lets any page open a WebSocket to any host, and sends that host's cookies
# along. Same-origin rules do not hold here; the server must look at `Origin` itself.

# %%
async with running("echo") as server:
    print("a stranger:     ", await upgrade(server))
    print("a foreign page: ", await upgrade(server, Origin="https://evil.test"))

# %% [markdown]
# ## Predict
#
# Three hundred strangers come to stage 1 and stay. How many kilobytes of the server's
# memory does each take? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# The whole stage. `admit` runs while the handshake is still HTTP, so a refusal is an
# HTTP answer. Note the order: what is cheap to check comes first, the signature last.

# %%
show(auth)

# %% [markdown]
# ## Run: every way in, and every way out

# %%
async with running("auth") as server:
    good, old = server.token("ann"), server.token("ann", ttl=-60)
    page, here = "https://evil.test", server.url.replace("ws", "http")
    attempts = {
        "no token": {},
        "a made-up token": {"Authorization": "Bearer abc.def.ghi"},
        "an expired token": {"Authorization": f"Bearer {old}"},
        "foreign page, ann's cookie": {"Cookie": f"lab_token={good}", "Origin": page},
        "own page, ann's cookie": {"Cookie": f"lab_token={good}", "Origin": here},
        "a header": {"Authorization": f"Bearer {good}"},
        "a subprotocol": {"Sec_WebSocket_Protocol": f"lab.json, bearer.{good}"},
    }
    for name, headers in attempts.items():
        print(f"{name:27} {await upgrade(server, **headers)}")

# %% [markdown]
# A browser cannot set `Authorization` on a WebSocket, and shows a script nothing of a
# 401: neither status nor body. That is why the token may also travel as a subprotocol,
# and why a client in a browser needs its token checked before it connects.
#
# A token also runs out while its socket is open. This one is good for at most two
# seconds:

# %%
async with running("auth") as server, connected(server, "ann", ttl=2) as ann:
    print("hello", ann.hello["user"])
    print("closed:", await ann.closed())

# %% [markdown]
# 4401 tells the client not to come back before it has a new token. A code that invites
# it back at once would make a crowd with expired tokens a storm.
#
# ## Observe: what three hundred strangers cost
#
# The same strangers at stage 1, which lets them in, and at stage 2. Twenty go first, so
# that nobody pays for what a server allocates once.


# %%
async def cost(stage: str, count: int = 300) -> dict[str, float]:
    async with running(stage) as server:
        async with strangers(server, 20):
            pass
        memory = await server.metric("process_resident_memory_bytes")
        async with strangers(server, count) as accepted:
            grown = await server.metric("process_resident_memory_bytes") - memory
    return {"sockets": accepted, "KB each": max(grown, 0) / count / 1000}


costs = {stage: await cost(stage) for stage in ("echo", "auth")}
bars(
    {
        "sockets given": {stage: each["sockets"] for stage, each in costs.items()},
        "server memory, KB a stranger": {
            stage: round(each["KB each"], 1) for stage, each in costs.items()
        },
    },
    title="Three hundred strangers, and what they take",
)

# %%
compare(my_guess, costs["echo"]["KB each"], "KB a stranger at stage 1")

# %% [markdown]
# ## Exercise: may this page connect?
#
# `origin` is the header's value, such as `https://lab.example`, or `None` where there
# is none; `host` is what the client asked for, such as `lab.example` or
# `127.0.0.1:8080`. Only pages of the same host and port may connect. A client without
# `Origin` is not a browser: its token decides.
#
# <details><summary>Hint</summary>
#
# `urllib.parse.urlsplit(origin).netloc` is the part that must be equal. Text searches
# (`in`, `startswith`) have let many strangers in.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# from urllib.parse import urlsplit
#
#
# def may_connect(origin: str | None, host: str) -> bool:
#     if origin is None:
#         return True
#     return urlsplit(origin).netloc == host
# ```
#
# </details>


# %% tags=["exercise"]
def may_connect(origin: str | None, host: str) -> bool:
    # Three lines.
    ...


# %%
check(may_connect)

# %% [markdown]
# ## Load
#
# A crowd needs tokens. Start a server with `LAB_SECRET=... labserver serve`, give
# Locust the same variable, and every user signs its own:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Everybody who is let in is alone: a server that only answers cannot bring two people
# together. Next: **3 · Rooms**.
