"""A web application beside a lab server: it says who may connect, and publishes.

It shares LAB_SECRET with the server, so the server takes its tokens. Clients connect to
the server; what happens here reaches them by a publish.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

from labserver.client import Client, ServerError
from labserver.contract.tokens import issue

URL = os.environ.get("URL", "ws://127.0.0.1:8080")
SECRET = os.environ["LAB_SECRET"]


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Keep one connection for all requests; its token is new at every attempt."""
    async with Client(URL, lambda: issue(SECRET, "the-shop"), request_timeout=5) as it:
        app.state.client = it
        yield


app = FastAPI(lifespan=connected)


@app.post("/token")
async def token(user: str) -> dict[str, str]:
    """Return a token for one user and one room; a real one asks for a password."""
    return {"token": issue(SECRET, user, ["orders"], ttl=600)}


@app.post("/orders/{number}")
async def order(number: int, what: dict[str, Any]) -> dict[str, int]:
    """Take an order, and tell everybody in the room; to repeat this is safe."""
    payload = {"order": number, **what}
    try:
        ack = await app.state.client.publish("orders", payload, key=f"order-{number}")
    except (
        OSError,
        ServerError,
    ) as exc:  # OSError: no connection, or no answer in time
        raise HTTPException(503, f"not published: {exc}") from None
    return {"seq": ack["seq"]}
