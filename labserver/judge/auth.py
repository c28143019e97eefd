"""No stranger gets a socket, without a token or with a forged one."""

from __future__ import annotations

import base64
import json
import time

import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.judge.world import SECRET, World, must, peer
from labserver.server.server import LabServer


async def _refused(
    world: World, server: LabServer, status: int, query: str = "", **headers: str
) -> None:
    async with world.awaiting("an answer to the handshake"):
        try:
            async with connect(f"{server.url}/{query}", additional_headers=headers):
                got = 101
        except InvalidStatus as refused:
            got = refused.response.status_code
    what = f"{query[:12]} {headers.get('Origin', '')}".strip() or "no token"
    must(got == status, f"HTTP {got} instead of {status} for {what}")
    must(server.metrics.accepted == 0, "a stranger was accepted")


async def strangers_are_refused_with_http(world: World) -> None:
    """A client without a token, or with garbage, gets HTTP 401 and never a socket."""
    async with world.running() as server:
        for query in ("", "?token=", "?token=x.y.z", "?token=%00"):
            await _refused(world, server, 401, query)


async def forged_tokens_are_refused(world: World) -> None:
    """A token that is unsigned, or signed with another secret, is refused."""
    genuine = issue(SECRET, "ann")
    head, claims, signature = genuine.split(".")
    unsigned = {"alg": "none", "typ": "JWT"}
    no_algorithm = base64.urlsafe_b64encode(json.dumps(unsigned).encode()).decode()
    forged = [
        issue("another secret of thirty-two bytes!", "ann"),
        f"{no_algorithm.rstrip('=')}.{claims}.",
        f"{head}.{claims}.",
        f"{head}.{claims}.{signature[:4]}",
        f"{head}.{claims}.{signature[::-1]}",
    ]
    async with world.running() as server:
        for token in forged:
            await _refused(world, server, 401, f"?token={token}")
        async with peer(server, token=genuine):
            pass  # or a server that refuses every client would pass


async def pages_of_other_sites_are_refused(world: World) -> None:
    """A page of another site is refused, even with a valid cookie."""
    cookie = {"Cookie": f"lab_token={issue(SECRET, 'ann')}"}
    async with world.running() as server:
        await _refused(world, server, 403, Origin="http://elsewhere.example", **cookie)
        here = {"Origin": server.url.replace("ws", "http", 1), **cookie}
        async with peer(server, headers=here) as client:
            must(client.hello["user"] == "ann", "the cookie was not read")


async def expired_token_ends_its_connection(world: World) -> None:
    """The connection of an expired token is closed with 4401."""
    async with world.running() as server:
        claims = {"sub": "ann", "exp": time.time() + 1.0}
        late = jwt.encode(claims, SECRET, algorithm="HS256")
        async with (
            peer(server, token=late) as client,
            world.awaiting("the end of a connection whose token expired"),
        ):
            code = await client.closed()
        must(code == 4401, f"closed with {code} instead of 4401")
