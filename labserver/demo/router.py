"""HAProxy in front of replicas on this machine, if it is installed.

The configuration is like ``deploy/haproxy.cfg``, for replicas with fixed ports: HAProxy
checks ``/readyz``, sends a client to the same replica by a cookie, and tries another
replica when one is draining.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from labserver.errors import LabError
from labserver.redis.embedded import end_with_parent

START_TIMEOUT = 10.0  # seconds
CONFIGURATION = """\
global
    maxconn 2000
    # Small, so that a reader that stalls is not hidden in here.
    tune.sndbuf.client 32768
    tune.rcvbuf.server 32768
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    timeout tunnel 1h
    timeout client-fin 5s
    timeout server-fin 5s
frontend public
    bind fd@{listening}
    http-request set-header X-Forwarded-For %[src]
    default_backend replicas
backend replicas
    balance leastconn
    cookie lab_replica insert indirect nocache httponly attr SameSite=Lax
    option httpchk GET /readyz
    http-check expect status 200
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response 503
    default-server check inter 500ms fastinter 200ms fall 1 rise 1
{servers}
"""


class RouterFailed(LabError):
    """HAProxy did not start; the message is the end of its output."""


def find_haproxy() -> str | None:
    """Return the path of HAProxy or None; looks in /usr/sbin, too."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    return shutil.which("haproxy", path=places)


@asynccontextmanager
async def running_router(binary: str, ports: Sequence[int]) -> AsyncIterator[str]:
    """Run HAProxy on a free port in front of replicas; yield its ``ws://`` URL.

    Raises:
        RouterFailed: HAProxy ended, or reaches no replica.

    """
    with (
        tempfile.TemporaryDirectory(prefix="labserver-router-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listening,
    ):
        servers = "\n".join(
            f"    server replica-{index} 127.0.0.1:{port} cookie replica-{index}"
            for index, port in enumerate(ports, 1)
        )
        text = CONFIGURATION.format(listening=listening.fileno(), servers=servers)
        path, log = Path(folder, "haproxy.cfg"), Path(folder, "log")
        path.write_text(text)  # noqa: ASYNC240 (a small file, once)
        with log.open("wb") as said:  # noqa: ASYNC230
            process = await asyncio.create_subprocess_exec(
                *(binary, "-db", "-f", str(path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[listening.fileno()],
                start_new_session=True,  # only the parent gets Ctrl-C
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )
        try:
            port = listening.getsockname()[1]
            await _ready(process, port, log)
            yield f"ws://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.kill()  # a soft stop would wait for open tunnels
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    """Wait until a replica answers through HAProxy."""
    request = b"GET /readyz HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while process.returncode is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                answer = await reader.readline()
                writer.close()
                if b" 200 " in answer:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise RouterFailed("HAProxy reaches no replica") from None
    words = log.read_text(errors="replace")  # noqa: ASYNC240
    raise RouterFailed(f"HAProxy ended at once: {words.strip()[-200:]}")
