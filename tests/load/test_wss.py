"""Load over TLS: a CA of one's own, and the name that a server is asked for."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import serve

from tests.load.test_loadtests import LossyServer, figures, locust

pytestmark = [pytest.mark.long, pytest.mark.needs("openssl"), pytest.mark.timeout(60)]
NAME = "chat.example"


def signed(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a CA's certificate, and the context of a server that it has signed."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca, server = folder / "ca.pem", folder / "server.pem"
    for arguments in (
        ("-subj", "/CN=A CA of one's own", "-keyout", folder / "ca.key", "-out", ca),
        (
            *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-CA", ca, "-CAkey", folder / "ca.key"),
            *("-keyout", folder / "server.key", "-out", server),
        ),
    ):
        command = ("openssl", "req", "-x509", *key, "-days", "2", *arguments)
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, folder / "server.key")
    return ca, context


async def test_load_goes_over_tls_with_a_ca_and_a_name_of_ones_own(
    tmp_path: Path,
) -> None:
    ca, context = signed(tmp_path)
    asked: set[str | None] = set()
    context.sni_callback = lambda _, name, __: asked.add(name)
    lossy, results = LossyServer(), tmp_path / "results"

    async def published() -> bool:
        return lossy.seq >= 20

    async def run(until: Any = None, **variables: str) -> tuple[int, str, str]:
        port = server.sockets[0].getsockname()[1]
        return await locust(
            *("--host", f"wss://127.0.0.1:{port}", "-u", "4", "-r", "4", "-t", "30s"),
            *("--results", str(results), "--no-pictures", "--lag-limit", "10000"),
            *("FanoutPublisher", "FanoutSubscriber"),
            until=until,
            LAB_TOKEN="any",
            **variables,
        )

    async with serve(
        lossy.converse, "127.0.0.1", 0, compression=None, ssl=context
    ) as server:
        code, _, err = await run(LAB_LOAD_TLS_NAME=NAME)
        assert code == 3
        assert "name the file of its CA in SSL_CERT_FILE" in err.splitlines()[-1]
        code, out, err = await run(
            published, SSL_CERT_FILE=str(ca), LAB_LOAD_TLS_NAME=NAME
        )
    assert code == 0, out + err
    assert asked - {None} == {NAME}  # None: the question for /metrics, by address
    tally = figures(results)["completeness"]["fanout/subscribers"]
    assert tally["delivered"] == tally["expected"] == 4 * lossy.seq
    # The kernel's time stamps are those of the encrypted segments.
    assert figures(results)["generator"]["lag_us"]["count"] > 0
