"""``labserver serve``: runs a server from its settings until a signal."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, TypeVar

from labserver.contract.tokens import issue
from labserver.errors import RedisMissing, SettingsError
from labserver.http.door import open_web
from labserver.processes.garbage import short_collections
from labserver.redis.embedded import running_redis
from labserver.redis.reach import check
from labserver.server.metrics import Metrics
from labserver.server.parts import Parts
from labserver.server.server import LabServer
from labserver.server.sockets import Complaints
from labserver.settings import Settings
from labserver.stages import build, included

T = TypeVar("T")
log = logging.getLogger("labserver")
SECRET_LEAST = 32  # bytes


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the factory of the event loop: uvloop's if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the server's kind of event loop; return its result."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


async def serve_until_signal(
    stage: str,
    host: str,
    port: int,
    without: list[str],
    settings: Settings,
    mistake: str | None = None,
) -> None:
    """Listen, print one line for each port, and drain on SIGTERM, SIGHUP or Ctrl-C.

    Raises:
        LabError: The server cannot start; nothing is left running.

    """
    made_up = not settings.secret
    if 0 < len(settings.secret.encode()) < SECRET_LEAST:
        if not is_loopback(host):
            raise SettingsError(
                f"LAB_SECRET needs {SECRET_LEAST} bytes or more on {host}, where "
                "strangers could try secrets until one fits: make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        log.warning(
            "LAB_SECRET has fewer than %d bytes: anyone with a token can try secrets "
            "until one fits (RFC 7518 section 3.2)",
            SECRET_LEAST,
        )
    if made_up:
        settings = replace(settings, secret=secrets.token_urlsafe(32))
    names = [each.name for each in included(stage, without)]
    if mistake is not None:
        from labserver.mistakes import mistaken  # few servers need it: 50 ms of a start

        mistaken(mistake, stage, without)  # raises before anything is started
    if settings.sse_port is not None and "rooms" not in names:
        raise SettingsError("--sse-port (LAB_SSE_PORT) needs the stage rooms")
    if settings.sse_port and settings.sse_port == port:
        # The system would bind the port twice without an error, and half of the clients
        # would reach the wrong listener.
        raise SettingsError("--sse-port (LAB_SSE_PORT) must differ from --port")
    if settings.confirm_replicas and "broker" in names and not settings.redis:
        raise SettingsError(
            "--confirm-replicas (LAB_CONFIRM_REPLICAS) needs --redis: the embedded "
            "Redis has no replicas"
        )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(Complaints())
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics, waits = Metrics(), False
    shared = "broker" in names and bool(settings.redis)
    async with AsyncExitStack() as stack:
        if "broker" in names and not settings.redis:
            try:
                url = await stack.enter_async_context(
                    running_redis(failures=metrics.failures)
                )
            except RedisMissing as exc:
                also = "or give --redis URL, or leave the broker out: --without broker"
                raise RedisMissing(f"{exc}; {also}") from None
            settings = replace(settings, redis=url)
        elif "broker" in names:
            try:
                await check(settings.redis)
            except RedisMissing as exc:
                # An orchestrator starts replicas and Redis in any order, and would
                # start a server that ends again and again.
                log.warning("%s. Waiting for it: not ready until it answers", exc)
                waits = True
        what = f"stage {stage}" + (f", mistake {mistake}" if mistake else "")
        parts = parts_of(stage, settings, without, mistake)
        server = LabServer(parts, settings, stage, host, port, open_web, metrics)
        server.hears = not waits  # so that it is not told a second time
        # Before the server starts, so that its drain has no long collection either.
        limit = settings.gc_pause_limit
        stack.enter_context(short_collections(limit, metrics.gc_pause))
        await stack.enter_async_context(server)
        url, web = server.url, server.web.url if server.web else None
        print(f"listening on {url} ({what})", flush=True)
        if web is not None:
            print(f"listening on {web}/rooms/ROOM (SSE, polls, POST)", flush=True)
        if made_up and "auth" in names:
            token = issue(settings.secret, "ann")
            also = ", and other replicas refuse its tokens" if shared else ""
            print(
                f"LAB_SECRET is not set: this run uses a random one{also}. A token, "
                f"valid an hour:\n{token}",
            )
            print(first_steps(url, token), flush=True)
        elif sys.stdout.isatty():
            print(first_steps(url), flush=True)
        await stop.wait()


def parts_of(
    stage: str, settings: Settings, without: list[str], mistake: str | None
) -> Parts:
    """Return the parts of a server, perhaps with a mistake."""
    if mistake is None:
        return build(stage, settings, without)
    from labserver import mistakes

    return mistakes.build(stage, settings, without, mistake)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host; of names only localhost's."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def first_steps(url: str, token: str = "") -> str:
    """Return two lines: a command that connects, in any shell, and the page's URL.

    Args:
        url: URL of the server.
        token: A token that it takes; it must be one's own, since both lines show it.

    """
    query, fragment = (f"/?token={token}", f"#token={token}") if token else ("", "")
    # This Python has the module; the one that a shell finds may not.
    python = shlex.quote(sys.executable)
    page = url.replace("ws", "http", 1)
    for anywhere, here in (("//0.0.0.0:", "//127.0.0.1:"), ("//[::]:", "//[::1]:")):
        page = page.replace(anywhere, here)
    return f"try: {python} -m websockets '{url}{query}'\nor open {page}/{fragment}"
