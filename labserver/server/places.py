"""Places: how many sockets there are, in all and of one address.

A place is taken when a socket is accepted, and given back when it is closed, on either
port: one that is silent in its handshake costs as much as one that talks. Nothing else
changes the count, so no place outlives its socket.

A socket that finds no place may still ask, and is told why it cannot stay; so may a
health check, which needs none. Of these few are kept: the oldest goes for the newest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from labserver.errors import Refused
from labserver.server.proxies import neighbourhood

STANDING = 16  # sockets without a place, or a quarter of the limit if that is more


@dataclass(eq=False, slots=True)
class Place:
    """What one socket counts for.

    Args:
        abort: Ends the socket.
        through: Whether a trusted proxy speaks for the client, so that the address is
            known when it has asked, and may be another with each request.

    """

    abort: Callable[[], object]
    through: bool
    address: str | None = None  # that it is counted for
    taken: bool = False
    closed: bool = False


class Places:
    """The places of one process.

    Args:
        limit: In all; 0 for any number.
        address_limit: For one address; 0 for any number.

    """

    def __init__(self, limit: int = 0, address_limit: int = 0) -> None:
        self.limit = limit
        self.address_limit = address_limit
        self.taken = 0
        self.addresses: Counter[str] = Counter()
        self.standing: dict[Place, None] = {}  # without a place, the oldest first

    def arrive(self, address: str | None, abort: Callable[[], object]) -> Place:
        """Give a socket a place, if there is one.

        Args:
            address: Where the client is; None if a trusted proxy has yet to say.
            abort: Ends the socket, if too many stand.

        """
        place = Place(abort, through=address is None)
        try:
            self.claim(place, address)
        except Refused:
            self.stand(place)
        return place

    def claim(self, place: Place, address: str | None) -> None:
        """Take a place for an address, unless it is taken already.

        Raises:
            Refused: There is none, in all or for this address.

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
        """Count a place for no address: who comes next through it may be elsewhere."""
        if place.address is not None:
            self.addresses[place.address] -= 1
            if not self.addresses[place.address]:
                del self.addresses[place.address]
            place.address = None

    def stand(self, place: Place) -> None:
        """Give the place back of a socket that is answered once and then closed."""
        self._give_back(place)
        if place.closed or not (self.limit or self.address_limit):
            return
        self.standing[place] = None
        while len(self.standing) > max(STANDING, self.limit // 4):
            oldest = next(iter(self.standing))
            del self.standing[oldest]
            oldest.abort()

    def leave(self, place: Place) -> None:
        """Give the place back of a socket that is closed."""
        self._give_back(place)
        self.standing.pop(place, None)
        place.closed = True

    def _give_back(self, place: Place) -> None:
        self.disclaim(place)
        self.taken -= place.taken
        place.taken = False
