"""Places: the limits on sockets, in all and of one address.

A socket takes a place when it is accepted, and gives it back when it is closed, on
either port: a socket that is silent in its handshake costs as much as any other. Only
these two events change the count, so no place outlives its socket.

A socket that gets no place may still send a request, and is told why it is refused. A
health check needs no place either. Few such sockets are kept: the oldest is closed for
the newest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from labserver.errors import Refused
from labserver.server.proxies import neighbourhood

STANDING = 16  # sockets without a place; a quarter of the limit if that is more


@dataclass(eq=False, slots=True)
class Place:
    """The place of one socket.

    Args:
        abort: Ends the socket.
        through: Whether the socket comes from a trusted proxy. Then each request names
            its client's address, which may change.

    """

    abort: Callable[[], object]
    through: bool
    address: str | None = None  # the address that it counts for
    taken: bool = False  # whether it counts
    closed: bool = False


class Places:
    """The places of one process.

    Args:
        limit: Sockets in all; 0 for no limit.
        address_limit: Sockets from one address; 0 for no limit.

    """

    def __init__(self, limit: int = 0, address_limit: int = 0) -> None:
        self.limit = limit
        self.address_limit = address_limit
        self.taken = 0
        self.addresses: Counter[str] = Counter()
        self.standing: dict[Place, None] = {}  # without a place, the oldest first

    def arrive(self, address: str | None, abort: Callable[[], object]) -> Place:
        """Take a place for a new socket, if one is free.

        Args:
            address: The client's address; None if a trusted proxy will name it.
            abort: Ends the socket. Called if too many have no place.

        """
        place = Place(abort, through=address is None)
        try:
            self.claim(place, address)
        except Refused:
            self.stand(place)
        return place

    def claim(self, place: Place, address: str | None) -> None:
        """Take a place and count it for an address. A place that is taken is kept.

        Args:
            place: The socket's place.
            address: The client's address; None if it is not known yet.

        Raises:
            Refused: No place is free, in all (503) or for this address (429).

        """
        if place.closed:
            raise Refused(503, "the client is gone")
        if not place.taken and 0 < self.limit <= self.taken:
            raise Refused(503, "the server is full", {"Retry-After": "5"})
        address = None if address is None else neighbourhood(address)
        if address is not None and address != place.address:
            self.disclaim(place)
            if 0 < self.address_limit <= self.addresses[address]:
                detail = "too many connections from this address"
                raise Refused(429, detail, {"Retry-After": "5"})
            self.addresses[address] += 1
            place.address = address
        self.taken += not place.taken
        place.taken = True
        self.standing.pop(place, None)

    def disclaim(self, place: Place) -> None:
        """Count a place for no address: a proxy may use it for another client next."""
        if place.address is not None:
            self.addresses[place.address] -= 1
            if not self.addresses[place.address]:
                del self.addresses[place.address]
            place.address = None

    def stand(self, place: Place) -> None:
        """Give back the place of a socket that gets one answer and is then closed."""
        self._give_back(place)
        if place.closed or not (self.limit or self.address_limit):
            return
        self.standing[place] = None
        while len(self.standing) > max(STANDING, self.limit // 4):
            oldest = next(iter(self.standing))
            del self.standing[oldest]
            oldest.abort()

    def leave(self, place: Place) -> None:
        """Give back the place of a socket that is closed."""
        self._give_back(place)
        self.standing.pop(place, None)
        place.closed = True
        place.abort = _nothing  # a reference cycle would be freed late

    def _give_back(self, place: Place) -> None:
        self.disclaim(place)
        self.taken -= place.taken
        place.taken = False


def _nothing() -> None:
    pass
