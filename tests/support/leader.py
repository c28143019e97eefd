"""A cluster with a leader: the first process serves, the others pass everything on.

A program to judge, which is wrong: when the leader crashes, nobody is served. Its
argument is the file in which the leader leaves its port.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from labserver.processes import faults


async def follow(leader: int, port: int) -> None:
    async with faults.proxy("127.0.0.1", leader, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    note, port = Path(sys.argv[1]), os.environ["PORT"]
    if note.exists():
        asyncio.run(follow(int(note.read_text()), int(port)))
    note.write_text(port)
    serve = ("-m", "labserver", "serve", "--stage", "broker", "--port", port)
    os.execv(sys.executable, (sys.executable, *serve))
