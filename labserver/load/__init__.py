"""The load generator: users, runs, figures, pictures.

    from labserver.load import Publisher, WebSocketUser

in a file that Locust runs. Locust replaces what a process waits with, so that nothing
here imports it before one of its users is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labserver.load.users.publisher import Publisher
    from labserver.load.users.user import WebSocketUser

__all__ = ["Publisher", "WebSocketUser"]


def __getattr__(name: str) -> Any:
    if name == "Publisher":
        from labserver.load.users.publisher import Publisher

        return Publisher
    if name == "WebSocketUser":
        from labserver.load.users.user import WebSocketUser

        return WebSocketUser
    raise AttributeError(name)
