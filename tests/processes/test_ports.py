"""Ports that no other program is given meanwhile."""

from __future__ import annotations

import socket

import pytest

from labserver.processes import ports
from labserver.processes.ports import COUNT, NoPort, free_port, free_ports

pytestmark = pytest.mark.timeout(10)


def test_ports_differ_and_are_none_that_the_system_gives_to_others() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        given = sock.getsockname()[1]
    found = free_ports(50)
    assert len(set(found)) == 50
    assert max(found) - min(found) < COUNT
    assert given not in range(min(found), max(found) + 1)


def test_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(ports, "COUNT", 1)
    monkeypatch.setattr(ports, "TRIES", 0)
    monkeypatch.setattr(ports, "RANGE", ports.RANGE.with_name("none"))
    monkeypatch.setattr(ports, "EPHEMERAL", port + 1)
    assert free_ports(1) == [port]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(NoPort, match="0 of"):
        free_ports(1)
