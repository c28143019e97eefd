"""``labserver token`` and ``schema``: what a client of a server needs."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from labserver.cli.app import app, fail
from labserver.contract.schema import asyncapi
from labserver.contract.tokens import issue
from labserver.settings import secret_of


@app.command()
def token(
    user: Annotated[str, typer.Option(help="User name in the token.")],
    rooms: Annotated[
        str | None,
        typer.Option(
            help="Rooms that it allows, comma-separated; team:* is a prefix. "
            "Default: every room."
        ),
    ] = None,
    ttl: Annotated[
        float, typer.Option(min=1, max=1e9, help="Seconds until it expires.")
    ] = 3600,
) -> None:
    """Print a token, signed with LAB_SECRET."""
    secret = secret_of()
    if not secret:
        fail("LAB_SECRET is not set: a token is signed with the server's secret")
    if not 1 <= len(user) <= 128 or not user.isprintable():
        fail("--user must have 1 to 128 printable characters")
    names = None
    if rooms is not None:
        names = [name.strip() for name in rooms.split(",") if name.strip()]
        if not names:  # an empty variable in a script must not allow every room
            fail("--rooms names no room; leave it out to allow every room")
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_.:-]{0,64}\*?", name):
                fail(f"{name[:70]!r} is not a room, nor a prefix that ends in *")
    print(issue(secret, user, names, ttl))


@app.command()
def schema() -> None:
    """Print the wire contract as an AsyncAPI 3 document, JSON."""
    print(json.dumps(asyncapi(), indent=2))
