"""deploy/haproxy.cfg in front of replicas on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from labserver.demo.router import find_haproxy

FILE = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
ENVIRONMENT = {"LAB_ADDRESS_LIMIT": "0", "LAB_TLS_PEM": ""}  # as docker-compose.yml's


def configured(
    folder: Path, port: int, metrics: int, replicas: Sequence[int], inter: str = "1s"
) -> list[str]:
    """Write the file with other addresses; return the command that runs it.

    Args:
        folder: Where the file is written.
        port: Port to listen on.
        metrics: Port of its metrics.
        replicas: Ports of the replicas.
        inter: Time between two checks of a replica.

    """
    text = FILE.read_text()
    servers = "".join(f"    server r{at} 127.0.0.1:{at}\n" for at in replicas)
    for pattern, new in (
        (r"bind :8080", f"bind 127.0.0.1:{port}"),
        (r"bind :8405", f"bind 127.0.0.1:{metrics}"),
        (r"check inter 1s", f"check inter {inter}"),
        (r" init-addr none resolvers docker resolve-prefer ipv4", ""),
        (r"    server-template .*\n", servers),
    ):
        text, changed = re.subn(pattern, new, text)
        assert changed, pattern
    (folder / "haproxy.cfg").write_text(text)
    return [find_haproxy() or "haproxy", "-W", "-db", "-f", f"{folder}/haproxy.cfg"]
