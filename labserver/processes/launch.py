"""Programs whose first line says where they listen, such as ``labserver serve``."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence

from labserver.errors import LabError

START_TIMEOUT = 20.0  # seconds
LISTENING = "listening on "


class NotListening(LabError):
    """A program did not listen; the message is what it wrote on standard error."""


async def launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    prepare: Callable[[], None],
    within: float = START_TIMEOUT,
) -> tuple[asyncio.subprocess.Process, str]:
    """Start a program and wait until it listens.

    Args:
        command: The program and its arguments.
        environment: All of its variables.
        prepare: Called in the new process before the program runs.
        within: Seconds that it may take.

    Returns:
        The process, whose standard output goes on, and the URL of its first line.

    Raises:
        NotListening: It ended or said something else, or was too slow; it is over.
        OSError: There is no such program.

    """
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
            preexec_fn=prepare,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(within):
                line = (await process.stdout.readline()).decode(errors="replace")
                if line.startswith(LISTENING):
                    return process, line.split()[2]
                if not line:
                    await process.wait()  # so that it has said why
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            raise NotListening(words or line.strip() or "it ended without a word")
        except TimeoutError:
            await kill(process)
            raise NotListening(f"it did not listen within {within:g} s") from None
        except BaseException:
            await kill(process)
            raise


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process at once."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
