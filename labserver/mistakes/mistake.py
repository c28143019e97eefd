"""The description of a mistake: a well-known wrong version of one part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labserver.client import Client
from labserver.server.parts import Parts
from labserver.settings import Settings

Extend = Callable[[Parts, Settings], Parts]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong version of a stage.

    Args:
        name: Name on the command line.
        stage: Name of the stage whose promise it breaks.
        wrong: What goes wrong, in a sentence.
        seen: Where it was seen: an issue, an article, a library's documentation.
        breaks: Name of the probe that fails on it.
        extend: Function that replaces one part of a server; None for a mistake of the
            client.
        client: Factory of clients, with the arguments of :class:`Client`.

    """

    name: str
    stage: str
    wrong: str
    seen: str
    breaks: str
    extend: Extend | None = None
    client: Callable[..., Client] = Client
