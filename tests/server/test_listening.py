"""The address that a server listens on."""

from __future__ import annotations

import pytest

from labserver.errors import SettingsError
from labserver.server.server import LabServer
from labserver.settings import Settings
from tests.conftest import Running


async def test_port_that_is_taken_is_one_line(running: Running) -> None:
    async with running("echo") as one:
        another = LabServer(one.parts, Settings(), host=one.host, port=one.port)
        with pytest.raises(SettingsError, match="in use") as problem:
            another.open_socket()
    assert "\n" not in str(problem.value)
