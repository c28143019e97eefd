"""No stranger gets a socket, without a token or with a forged one."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import warnings
from typing import Any
from urllib.parse import urlsplit

import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.judge.evidence import note
from labserver.judge.peers import Served, door_of, secret_of
from labserver.judge.world import World, must, peer

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


async def pages_of_other_sites_are_refused(world: World) -> None:
    """A page of another site is refused, even with a valid cookie."""
    async with world.running() as server:
        cookie = {"Cookie": f"lab_token={issue(secret_of(server), 'ann')}"}
        await _refused(world, server, 403, Origin="http://elsewhere.example", **cookie)
        origin = urlsplit(server.url)._replace(path="").geturl()
        here = {"Origin": origin.replace("ws", "http", 1), **cookie}
        async with peer(server, headers=here) as client:
            must(client.hello["user"] == "ann", "the cookie was not read")


async def expired_token_ends_its_connection(world: World) -> None:
    """The connection of an expired token is closed with 4401."""
    async with world.running() as server:
        late = _signed(secret_of(server), exp=time.time() + 1.0)
        async with (
            peer(server, token=late) as client,
            world.awaiting("the end of a connection whose token expired"),
        ):
            code = await client.closed()
        must(code == 4401, f"closed with {code} instead of 4401")


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
