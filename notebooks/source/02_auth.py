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
# **Promise:** no stranger gets a socket. · *about 35 minutes*
#
# A socket takes memory for as long as it is open, and its owner hears everything that
# the server sends to it. The cheapest moment to refuse a client is before it has a
# socket.

# %%
from labserver.notebook import (
    bars,
    check,
    compare,
    connected,
    mistakes,
    my_guess,
    probe,
    running,
    show,
    toll,
    upgrade,
)
from labserver.stages import auth

# %% [markdown]
# ## Break: connect to stage 1 without a token
#
# We connect once as a stranger, and once as a page of another site. The second case is
# easily overlooked: a browser lets any page open a WebSocket to any host. The
# same-origin policy does not apply to WebSockets, so the server must check `Origin`
# itself.

# %%
async with running("echo") as server:
    print("a stranger:     ", await upgrade(server))
    print("a foreign page: ", await upgrade(server, Origin="https://evil.test"))

# %% [markdown]
# ## Predict
#
# A server accepts a thousand strangers, asks each for a token, and closes those that
# have none. How many kilobytes of the server's memory does each of them take until
# then? Set a number, or leave `None`.

# %%
my_guess = None

# %% [markdown]
# ## Read
#
# This is the whole stage. `admit` runs while the handshake is still HTTP, so a refusal
# is an HTTP response. Note the order: cheap checks come first, the signature last.

# %%
show(auth)

# %% [markdown]
# ## Run: what is in a token
#
# A token is three texts with dots between them: a head, the claims, and a signature of
# both. The first two are JSON in base64, which anyone can read and write. The signature
# needs the secret.

# %%
import base64

import jwt

from labserver.contract.tokens import issue

secret = "a secret that only the server knows"
genuine, expired = issue(secret, "ann"), issue(secret, "ann", ttl=-60)
head, claims, signature = genuine.split(".")
for part in (head, claims):
    print(base64.urlsafe_b64decode(part + "==").decode())

bobs = base64.urlsafe_b64encode(b'{"sub": "bob", "exp": 9999999999}').decode()
forged = f"{head}.{bobs.rstrip('=')}.{signature}"
for token in (genuine, expired, forged):
    try:
        print("a token of", jwt.decode(token, secret, algorithms=["HS256"])["sub"])
    except jwt.PyJWTError as exc:
        print("refused:", exc)

# %% [markdown]
# `sub` names the user, and `exp` says when the token expires, in seconds of Unix time.
# `alg` in the head says how the token is signed, but the head is written by the sender.
# A server that believes it also accepts `"alg": "none"`, without a signature. So the
# server names the algorithm itself (RFC 8725 section 3.1). The stage's `verify` is this
# call, with more care.
#
# ## Run: requests that are accepted, and requests that are refused

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
    print(f"{'a query':27} {await upgrade(server, f'/?token={good}')}")

# %% [markdown]
# These are the four ways in: header, cookie, subprotocol, query; the first token
# counts. A script in a browser cannot set `Authorization` on a WebSocket, so the token
# may also travel as a subprotocol. In the query it works everywhere, and is the worst
# place: proxies and servers write URLs to their logs. This server looks there last, and
# logs no query. After a 401 the browser shows the script neither status nor body, so a
# client in a browser should have its token checked before it connects.
#
# A token also expires while its socket is open. These are valid for two seconds:

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
# Code 4401 tells the client not to reconnect before it has a new token. With a code
# that lets clients reconnect at once, thousands of clients with expired tokens would
# reconnect again and again.
#
# ## Run: a page with somebody else's cookie
#
# Ann is logged in, and her browser has the cookie. She opens a page of another site.
# That page opens a WebSocket to the server. Whether the browser sends her cookie along
# is said by the cookie's `SameSite`: with `None` it does, and without the attribute a
# current Chromium does not. If it does and the server makes the mistake
# `no-origin-check`, the page now speaks in Ann's name.
#
# `SameSite` does not replace the check of `Origin`. A *site* is the registered domain:
# a page of `blog.example.com`, which others may fill, gets the cookie of
# `chat.example.com` whatever `SameSite` says. Some sites need `None`, because they are
# embedded elsewhere, and not every browser has Chromium's default.

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
# The first server refuses them before they have a socket. The second accepts them and
# then closes them. The strangers do not answer the close frame, because an attacker
# does not follow the protocol.

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
# Both servers do the same work for the handshake itself. The second then adds a
# connection object, buffers, a task, and a timer for the close. An attacker exhausts
# memory first: each connection keeps its memory as long as it is open, while the CPU
# time is used once.
#
# ## Exercise: may this page connect?
#
# `origin` is the value of the `Origin` header, such as `https://lab.example`, or `None`
# without the header. `host` is the value of the `Host` header, such as `lab.example` or
# `127.0.0.1:8080`. Return whether the client may connect: only pages of the same host
# and port may. A client without `Origin` is not a browser and may connect; its token is
# checked later.
#
# <details><summary>Hint</summary>
#
# `urllib.parse.urlsplit(origin).netloc` must be equal to `host`. Searching the text
# (`in`, `startswith`) is a well-known hole: it also accepts `lab.example.evil.test`.
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
# ## Build: your own admission
#
# Now write the part itself. A server makes one object of it, and calls its methods,
# which are plain functions and wait for nothing:
#
# - `admit(member, request)` while the handshake is still HTTP. It returns the client's
#   identity, or raises `Refused(status, why)`, which becomes the HTTP answer: 403 for a
#   page of another site, 401 for a token that is missing or bad;
# - `opened(member)` when a client has got its socket, `released(member)` when it is
#   over. When the token expires in between, `member.end(TOKEN_EXPIRED)`;
# - `refresh(member, token)` when a client sends a new token. It gives the member its
#   new identity and returns `Refreshed(expires)`. If the token is bad, or another
#   user's, it ends the member and returns `None`.
#
# What your class may use:
#
# - `request.headers.get("Origin")` is the value of a header, or `None`;
# - `tokens(request)` yields the tokens of a request, in the order of the four ways. Its
#   code stands near the end of the stage, above;
# - `identity_of(claims)` makes an identity, with `user`, `rooms` and `expires`. What
#   `admit` returned is later in `member.identity`;
# - `member.loop.call_later(seconds, function, argument)` returns a timer, which has a
#   `cancel()`. `member.expiry` is there to keep it, and is `None` at first.
#
# The server counts its sockets in `places`; here they have no limit. `probe` puts your
# class into a real server of this stage. It asks it what `labserver judge` asks any
# server, and says what it saw.
#
# <details><summary>Hint</summary>
#
# Begin with a method `verified(token)`, which returns an identity, or `None` for a bad
# token: both `admit` and `refresh` need it. `jwt.decode`, as above, checks signature
# and expiry; `options={"require": ["sub", "exp"]}` refuses a token that lacks one of
# them. `next(tokens(request), "")` is the first token, and an empty text is no valid
# one. Whether a page may connect was the last exercise. `expires` is a time of the
# clock `time.time()`, while `call_later` takes the seconds that are left. After a
# refresh the old timer is still running.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import time
#
# import jwt
#
# from labserver.contract.closing import TOKEN_EXPIRED
# from labserver.contract.messages import Refreshed
# from labserver.contract.tokens import Identity
# from labserver.errors import Refused
# from labserver.server.places import Places
# from labserver.stages.auth import tokens
#
#
# def identity_of(claims: dict) -> Identity:
#     """Return whom a token's claims name, for which rooms, and until when."""
#     rooms = claims.get("rooms")  # None allows every room
#     allowed = None if rooms is None else tuple(rooms)
#     return Identity(claims["sub"], allowed, claims["exp"])
#
#
# class MyAdmission:
#     def __init__(self, settings) -> None:
#         self.secret = settings.secret
#         self.places = Places()
#
#     def verified(self, token: str) -> Identity | None:
#         needed = {"require": ["sub", "exp"]}
#         try:
#             claims = jwt.decode(token, self.secret, ["HS256"], options=needed)
#         except jwt.PyJWTError:
#             return None
#         return identity_of(claims)
#
#     def admit(self, member, request) -> Identity:
#         origin, host = request.headers.get("Origin"), request.headers["Host"]
#         if origin not in (None, f"http://{host}", f"https://{host}"):
#             raise Refused(403, "a page of another site may not connect")
#         identity = self.verified(next(tokens(request), ""))
#         if identity is None:
#             raise Refused(401, "a valid token is needed")
#         return identity
#
#     def opened(self, member) -> None:
#         left = member.identity.expires - time.time()
#         member.expiry = member.loop.call_later(left, member.end, TOKEN_EXPIRED)
#
#     def released(self, member) -> None:
#         if member.expiry is not None:
#             member.expiry.cancel()
#
#     def refresh(self, member, token: str) -> Refreshed | None:
#         identity = self.verified(token)
#         if identity is None or identity.user != member.identity.user:
#             member.end(TOKEN_EXPIRED)
#             return None
#         member.identity = identity
#         self.released(member)  # the timer of the old token
#         self.opened(member)
#         return Refreshed(identity.expires)
# ```
#
# </details>

# %% tags=["build"]
import time

import jwt

from labserver.contract.closing import TOKEN_EXPIRED
from labserver.contract.messages import Refreshed
from labserver.contract.tokens import Identity
from labserver.errors import Refused
from labserver.server.places import Places
from labserver.stages.auth import tokens


def identity_of(claims: dict) -> Identity:
    """Return whom a token's claims name, for which rooms, and until when."""
    rooms = claims.get("rooms")  # None allows every room
    allowed = None if rooms is None else tuple(rooms)
    return Identity(claims["sub"], allowed, claims["exp"])


class MyAdmission:
    def __init__(self, settings) -> None:
        self.secret = settings.secret
        self.places = Places()

    def admit(self, member, request) -> Identity: ...

    def opened(self, member) -> None: ...

    def released(self, member) -> None: ...

    def refresh(self, member, token: str) -> Refreshed | None: ...


# %%
await probe(MyAdmission)

# %% [markdown]
# The stage does the same, with more care. It counts sockets and handshakes against
# limits before it looks at a token, since that is cheaper than a signature. It knows
# other origins that the operator allows, and that `https` without a port means 443. It
# looks at its clocks at least every ten seconds: the wall clock may be set, and the
# clock of `call_later` may stand still while a machine sleeps. And its `verify`
# remembers good tokens, so that thousands of clients that come back at once cost no
# signatures.

# %% [markdown]
# ## Mistakes

# %%
await compare("auth", "accept-then-check")

# %%
await mistakes("auth")

# %% [markdown]
# ## Load
#
# Each simulated user needs a token. Start a server with
# `LAB_SECRET=... labserver serve` and give Locust the same variable; then every user
# signs its own token:
#
#     locust -f loadtests --headless --host ws://127.0.0.1:8080 -u 30 -r 30 -t 12s
#
# ## What still breaks
#
# Every client only gets its own messages back: two users cannot talk to each other yet.
# Next: **3 · Rooms**.
