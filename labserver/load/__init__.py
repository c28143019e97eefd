"""The load generator: users, runs, figures, pictures.

    from labserver.load import Publisher, WebSocketUser

is the import for a file that Locust runs, and ``labserver.load.dialects`` has what a
server of your own needs. Importing Locust patches the blocking calls
of the standard library in the whole process. So this module imports Locust only when
one of its users is asked for.
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
