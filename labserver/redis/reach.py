"""Whether the Redis behind a URL can be used, and if not, why not.

A server checks this once, when it starts: a typing error in the URL is found then. A
Redis that refuses ends it; for one that does not answer yet, it waits.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, InvalidResponse, RedisError

from labserver.errors import RedisMissing, SettingsError
from labserver.redis.commands import TIMEOUT, pool
from labserver.redis.nodes import is_cluster, seeds_of

SETTING = "--redis or LAB_REDIS_URL"


async def check(url: str) -> None:
    """Check that a Redis answers at ``url`` and accepts the login and the database.

    Raises:
        RedisMissing: No Redis answers.
        SettingsError: It is not the URL of a Redis, or that Redis refuses it.

    """
    try:
        if not is_cluster(url):
            return await _ask(url, "PING")
        addresses, url_of = seeds_of(url)
        for address in addresses[:-1]:
            try:
                return await _ask(url_of(address), "CLUSTER", "INFO")
            except RedisMissing:
                continue  # another server of the cluster may answer
        await _ask(url_of(addresses[-1]), "CLUSTER", "INFO")
    except ValueError:
        raise SettingsError(f"{SETTING} is not a Redis URL") from None


async def _ask(url: str, *command: str) -> None:
    where = f"{shown(url)} ({SETTING})"
    try:
        async with asyncio.timeout(TIMEOUT), Redis.from_pool(pool(url)) as redis:
            await redis.execute_command(*command)  # type: ignore[no-untyped-call]
    except TimeoutError:
        raise RedisMissing(
            f"no Redis answers at {where} within {TIMEOUT:g} s"
        ) from None
    except InvalidResponse as exc:
        raise SettingsError(f"what answers at {where} is no Redis: {exc}") from None
    except BusyLoadingError:
        raise RedisMissing(f"the Redis at {where} still loads its data") from None
    except (RedisError, OSError) as exc:
        # The library says "Error 111 connecting to host:port. Reason." where nothing
        # is reached. Other words are those of Redis.
        words = f"{exc}".replace("\n", " ").rstrip(".")[:200]
        if " connecting to " in words:
            reason = words.partition(" connecting to ")[2].partition(". ")[2]
            raise RedisMissing(f"no Redis answers at {where}: {reason}") from None
        if "HELLO" in words or "Authentication required" in words:
            words = "it asks for a password"
        raise SettingsError(f"the Redis at {where} refuses: {words}") from None


def shown(url: str) -> str:
    """Return host, port and database of a Redis URL, without user and password."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] + parts.path
