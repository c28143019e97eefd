"""What a mistake is: the well-known wrong version of one part, with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labserver.client import Client
from labserver.server.parts import Parts
from labserver.settings import Settings

Extend = Callable[[Parts, Settings], Parts]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong twin of a stage.

    Args:
        name: How it is called on the command line.
        stage: Name of the stage whose promise it breaks.
        wrong: What goes wrong, in a sentence.
        seen: Where: an issue, an article, a library's documentation.
        breaks: Name of the probe that goes red on it.
        extend: Replaces one part of a server; None for a mistake of the client.
        client: Makes a client, with the arguments of the right one.

    """

    name: str
    stage: str
    wrong: str
    seen: str
    breaks: str
    extend: Extend | None = None
    client: Callable[..., Client] = Client
