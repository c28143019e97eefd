"""``python -m loadtests``: two replicas of their own, a short load, a verdict.

Everything that is given is passed on to Locust: ``python -m loadtests -u 100 -t 30s``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path

from labserver.cluster import running_cluster
from labserver.errors import LabError

DEFAULTS = ("--headless", "--only-summary", "-u", "30", "-r", "30", "-t", "12s")


async def run(arguments: list[str]) -> int:
    """Run Locust against a cluster that lives as long; return its exit status."""
    secret = secrets.token_urlsafe(32)
    async with running_cluster(2, secret=secret) as cluster:
        urls = [replica.url for replica in cluster.replicas]
        locust = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", str(Path(__file__).parent)),
            *("--host", urls[0], "--replicas", ",".join(urls)),
            *(*DEFAULTS, *arguments),
            env={**os.environ, "LAB_SECRET": secret},
        )
        try:
            return await locust.wait()
        except asyncio.CancelledError:  # Ctrl-C reached Locust, too: it concludes
            return await locust.wait()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(run(sys.argv[1:])))
    except LabError as exc:
        print(f"loadtests: {exc}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
