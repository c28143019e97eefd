"""No stranger gets a socket, without a token or with a forged one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import time
import warnings
import weakref
from typing import Any
from urllib.parse import urlsplit

import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.judge.evidence import note
from labserver.judge.peers import Peer, Served, door_of, secret_of, until
from labserver.judge.world import World, connection_of, must, peer

OTHER = "another secret of thirty-two bytes!"


async def _refused(
    world: World,
    server: Served,
    status: int,
    query: str = "",
    what: str = "",
    **headers: str,
) -> None:
    """Try a handshake, which must end with a whole HTTP answer of this status."""
    what = what or headers.get("Origin", "") or query[:12] or "no token"
    async with world.awaiting(f"a whole answer to the handshake with {what}"):
        try:
            address = door_of(server) + query
            async with connect(address, additional_headers=headers):
                got = 101
        except InvalidStatus as refused:
            got = refused.response.status_code
    note("stranger", "received", f"HTTP {got} for {what}")
    must(got == status, f"HTTP {got} instead of {status} for {what}")


async def strangers_are_refused_with_http(world: World) -> None:
    """A client without a token, or with garbage, gets HTTP 401 and never a socket."""
    async with world.running() as server:
        for query in ("", "?token=", "?token=x.y.z", "?token=%00"):
            await _refused(world, server, 401, query)


async def forged_tokens_are_refused(world: World) -> None:
    """A token that is unsigned, or signed with another secret, is refused."""
    async with world.running() as server:
        secret = secret_of(server)
        genuine = issue(secret, "ann")
        head, claims, signature = genuine.split(".")
        unsigned = {"alg": "none", "typ": "JWT"}
        no_algorithm = base64.urlsafe_b64encode(json.dumps(unsigned).encode()).decode()
        forged = {
            "signed with another secret": issue(
                "another secret of 32 bytes or so", "x"
            ),
            "with alg none": f"{no_algorithm.rstrip('=')}.{claims}.",
            "without a signature": f"{head}.{claims}.",
            "with a part of its signature": f"{head}.{claims}.{signature[:4]}",
            "with a signature turned round": f"{head}.{claims}.{signature[::-1]}",
            "signed with HS512": _signed(secret, "HS512", exp=time.time() + 60),
            "that has expired": _signed(secret, exp=time.time() - 60),
            "without an expiry": _signed(secret),
        }
        for what, token in forged.items():
            await _refused(world, server, 401, f"?token={token}", f"a token {what}")
        async with peer(server, token=genuine):
            pass  # or a server that refuses every client would pass


async def token_may_come_in_four_ways(world: World) -> None:
    """A token is taken from a header, a cookie, a subprotocol, the query, in turn."""
    async with world.running() as server:
        token, other = (issue(secret_of(server), user) for user in ("ann", "bob"))
        ways: dict[str, tuple[str, dict[str, str], list[str]]] = {
            "the header Authorization": ("", {"Authorization": f"Bearer {token}"}, []),
            "the cookie lab_token": ("", {"Cookie": f"a=1; lab_token={token}"}, []),
            "a subprotocol": ("", {}, ["lab.json", f"bearer.{token}"]),
            "the query": (f"?token={token}", {}, []),
            "the header, beside another in the query": (
                *(f"?token={other}", {"Authorization": f"Bearer {token}"}, []),
            ),
        }
        for way, (query, headers, subprotocols) in ways.items():
            user = await _user(world, server, way, query, headers, subprotocols)
            must(user == "ann", f"a token of ann in {way} was taken for {user!r:.40}")


async def _user(
    world: World,
    server: Served,
    way: str,
    query: str,
    headers: dict[str, str],
    subprotocols: list[Any],
) -> Any:
    """Return whose token a server takes a good one for; it must take one."""
    async with world.awaiting(f"a hello to a good token in {way}"):
        try:
            async with connect(
                door_of(server) + query,
                additional_headers=headers,
                subprotocols=subprotocols or None,
            ) as socket:
                chosen = socket.subprotocol
                must(chosen in (None, "lab.json"), "chose a token as subprotocol")
                client = Peer(socket, name="ann")
                return (await client.recv())["user"]
        except InvalidStatus as refused:
            got = refused.response.status_code
    must(False, f"HTTP {got} instead of 101 for a good token in {way}")


async def pages_of_other_sites_are_refused(world: World) -> None:
    """A page of another site is refused, even with a valid cookie."""
    async with world.running() as server:
        cookie = {"Cookie": f"lab_token={issue(secret_of(server), 'ann')}"}
        host = urlsplit(server.url).netloc
        scheme = urlsplit(server.url).scheme.replace("ws", "http", 1)
        for foreign in (
            "http://elsewhere.example",
            f"{scheme}://{host}.elsewhere.example",
            f"{scheme}://elsewhere-{host}",
            "null",  # a page in a sandbox, of whichever site
        ):
            await _refused(world, server, 403, Origin=foreign, **cookie)
        here = {"Origin": f"{scheme}://{host}", **cookie}
        async with peer(server, headers=here) as client:
            must(client.hello["user"] == "ann", "the cookie was not read")


async def expired_token_ends_its_connection(world: World) -> None:
    """The connection of an expired token is closed with 4401."""
    async with world.running() as server:
        expires = _soon()
        late = _signed(secret_of(server), exp=expires)
        async with peer(server, token=late) as client:
            await _until(expires)
            async with world.awaiting("the end of a connection whose token expired"):
                code = await client.closed()
        must(code == 4401, f"closed with {code} instead of 4401")


async def new_token_is_for_the_same_user(world: World) -> None:
    """A refresh changes when a connection ends; a bad token, or another's, ends it."""
    async with world.running() as server:
        secret, expires = secret_of(server), _soon()
        early, late = (_signed(secret, exp=exp) for exp in (expires, expires + 60))
        async with (
            peer(server, "ann", token=early) as longer,
            peer(server, "ann, again", token=late) as shorter,
        ):
            for client, token, exp in (
                (longer, late, expires + 60),
                (shorter, early, expires),
            ):
                async with world.awaiting("the answer to a refresh"):
                    await client.send(type="refresh", token=token)
                    answer = await client.recv()
                kind, told = answer["type"], answer.get("expires")
                must(kind == "refreshed", f"a refresh was answered {kind}")
                must(told == exp, f"expires of refreshed is {told}, exp was {exp}")
            await _until(expires)
            await asyncio.sleep(0.3)  # in which an old timer may fire, after all
            async with world.awaiting("an echo, when only the old token had expired"):
                await longer.send(type="echo", payload=1)
                await longer.until("echo")
            async with world.awaiting("an end at the expiry of a new token"):
                code = await shorter.closed()
            must(code == 4401, f"closed with {code} for a new token, not with 4401")
        for whose, token in {
            "another user's": issue(secret, "bob"),
            "a forged": issue(OTHER, "ann"),
        }.items():
            async with peer(server, "ann") as ann:
                await ann.send(type="refresh", token=token)
                async with world.awaiting(f"an end after a refresh with {whose} token"):
                    code = await ann.closed()
                must(code == 4401, f"closed with {code} for {whose} token, not 4401")


async def ended_connection_is_not_held(world: World) -> None:
    """What a connection took is free when it ends, not when its token expires."""
    async with world.inside() as server:
        gc.freeze()  # a collection of what came before would stop the world for long
        try:
            async with peer(server, "ann"):
                ended = weakref.ref(connection_of(server, "ann"))
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        return await until(lambda: ended() is None)
                gc.collect()  # now, if it is in a cycle
        finally:
            gc.unfreeze()
        must(ended() is None, "a connection that has ended is held, perhaps by a timer")


async def tokens_are_never_printed(world: World) -> None:
    """Neither a good token nor a bad one is in what the server prints."""
    async with world.running() as server:
        good = issue(secret_of(server), "ann")
        bad = issue(OTHER, "eve")
        seen = world.watch_output(good.rpartition(".")[2], bad.rpartition(".")[2])
        await _refused(world, server, 401, f"?token={bad}", "a token of a stranger")
        async with (
            world.awaiting("a handshake with ?token="),
            connect(f"{door_of(server)}?token={good}") as client,
        ):
            await client.recv()
        await asyncio.sleep(0.3)  # what it prints comes through a pipe
        must(not seen(), "a token that came with ?token= was printed: logs are read")


def _signed(secret: str, algorithm: str = "HS256", **claims: Any) -> str:
    with warnings.catch_warnings():  # HS512 wants a longer secret
        warnings.simplefilter("ignore")
        return jwt.encode({"sub": "ann", **claims}, secret, algorithm=algorithm)


def _soon() -> int:
    """Return an expiry in one to two seconds, whole as most libraries read it."""
    return int(time.time()) + 2


async def _until(moment: float) -> None:
    """Wait for a moment of the wall clock."""
    await asyncio.sleep(max(0.0, moment - time.time()))
