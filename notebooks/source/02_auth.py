# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Auth at the upgrade
#
# **Promise:** no stranger gets a socket. · *about 20 minutes*
#
# A socket costs memory for as long as it lasts, and everything that its owner may hear.
# The cheapest moment to say no is before it exists.

# %%
from labserver.notebook import (
    bars,
    check,
    compare,
    connected,
    mistakes,
    my_guess,
    running,
    show,
    toll,
    upgrade,
)
from labserver.stages import auth

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
# A server accepts a thousand strangers, asks each for a token, and closes who has none.
# How many kilobytes of its memory does each take until then? Set a number, or leave
# `None`.

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
async with (
    running("auth") as server,
    connected(server, "ann", ttl=2) as ann,
    connected(server, "bob", ttl=2) as bob,
):
    await bob.send(type="refresh", token=server.token("bob", ttl=60))
    await bob.until(lambda: bob.of("refreshed"))
    print("ann, closed:   ", await ann.closed())
    print("bob, refreshed:", await bob.closed(within=0.5))

# %% [markdown]
# 4401 tells the client not to come back before it has a new token. A code that invites
# it back at once would make a crowd with expired tokens a storm.
#
# ## Run: a page with somebody else's cookie
#
# Ann is logged in, and her browser keeps the cookie. She opens a page of another site,
# which opens a WebSocket to the server; the browser sends her cookie along. On the
# mistaken twin the page speaks in her name from now on.

# %%
for name, options in {
    "no-origin-check": {"mistake": "no-origin-check"},
    "the stage": {},
}.items():
    async with running("auth", **options) as server:
        stolen = {"Cookie": f"lab_token={server.token('ann')}"}
        print(f"{name:16}", await upgrade(server, Origin="https://evil.test", **stolen))

# %% [markdown]
# ## Run: a thousand strangers
#
# Refused before a socket exists, or accepted and then closed. Who was accepted does not
# answer the goodbye: nobody makes a stranger be polite.

# %%
refused = await toll("auth")
print(refused)

# %%
accepted = await toll("auth", mistake="accept-then-check")
print(accepted)

# %% [markdown]
# ## Observe

# %% tags=["picture"]
both = {"refused with 401": refused, "accepted, then closed": accepted}
bars(
    {
        "sockets given": {name: each.sockets for name, each in both.items()},
        "memory, KB each": {name: round(e.memory, 1) for name, e in both.items()},
        "CPU, µs each": {name: round(e.cpu) for name, e in both.items()},
    },
    title="A thousand strangers, and what they take from the server",
)

# %%
compare(my_guess, accepted.memory, "KB for each stranger that was accepted")

# %% [markdown]
# The handshake itself is the same work for both. What differs is what comes after it: a
# connection object, buffers, a task, a timer for the goodbye. Memory is what an
# attacker fills first, because it stays taken while CPU time passes.
#
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
# ## Mistakes

# %%
await compare("auth", "accept-then-check")

# %%
await mistakes("auth")

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
