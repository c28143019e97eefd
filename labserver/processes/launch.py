"""Starts programs that print where they listen, such as ``labserver serve``."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence

from labserver.errors import LabError

START_TIMEOUT = 20.0  # seconds
LISTENING = "listening on "


class NotListening(LabError):
    """A program did not listen; the message is its standard error."""


async def launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    prepare: Callable[[], None],
    within: float = START_TIMEOUT,
) -> tuple[asyncio.subprocess.Process, str]:
    """Start a program and wait until it listens.

    Args:
        command: The program and its arguments.
        environment: All environment variables of the program.
        prepare: Called in the new process before the program runs.
        within: Seconds until it must listen.

    Returns:
        The process, with the rest of its standard output unread, and the URL of the
        first line.

    Raises:
        NotListening: It ended, printed something else, or was too slow; it has ended.
        OSError: There is no such program.

    """
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # only the parent gets Ctrl-C, and ends it
            preexec_fn=prepare,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(within):
                line = (await process.stdout.readline()).decode(errors="replace")
                if line.startswith(LISTENING):
                    return process, line.split()[2]
                if not line:
                    await process.wait()  # so that its standard error is complete
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            raise NotListening(words or line.strip() or "it ended without any output")
        except TimeoutError:
            await kill(process)
            raise NotListening(f"it did not listen within {within:g} s") from None
        except BaseException:
            await kill(process)
            raise


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
