"""Opens the HTTP port of a server; the process that serves passes it to the server.

Starlette and uvicorn come with the extra ``sse``. They are imported only if a server
has such a port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labserver.errors import SettingsError
from labserver.server.listening import open_port

if TYPE_CHECKING:  # the extra may not be installed
    from labserver.http.listener import WebServer
    from labserver.server.server import LabServer


def open_web(server: LabServer) -> WebServer | None:
    """Bind a server's second port; it serves event streams, long polls and POST.

    Args:
        server: Its ``settings.sse_port`` is the port, on the host of the first one.

    Returns:
        The listener, not started yet. None if the settings name no such port.

    Raises:
        SettingsError: The port cannot be bound, or a package is missing.

    """
    port = server.settings.sse_port
    if port is None:
        return None
    try:
        from labserver.http.listener import WebServer
    except ImportError as exc:
        raise SettingsError(
            f"--sse-port (LAB_SSE_PORT) needs {exc.name}, which is not installed: "
            "pip install '.[sse]' in the project's folder"
        ) from None
    listening = open_port(server.host, port, server.settings, "--sse-port")
    return WebServer(server, listening)
