"""No stranger gets a socket.

Without this, anyone who can reach the port costs memory and hears everything; and a
page of another site speaks in the name of whoever visits it, since browsers send
cookies with a handshake to any origin.

How: the token is checked while the handshake is still HTTP, so a refusal is a status
that proxies and people understand, and costs no socket. Caps come first, because they
are cheaper than a signature. A token that runs out ends its connection, unless the
client refreshes it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from websockets.http11 import Request

from labserver.contract.closing import TOKEN_EXPIRED
from labserver.contract.messages import Refreshed
from labserver.contract.tokens import BadClaim, BadToken, Identity, verify
from labserver.errors import Refused
from labserver.server.connection import LabConnection
from labserver.server.limits import TokenBucket
from labserver.server.parts import Parts
from labserver.server.places import Places
from labserver.settings import Settings

LOOK = 10.0  # seconds; the longest that one timer waits


class TokenAdmission:
    """Admit who brings a valid token from an acceptable place, while there is room."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.origins = {origin.lower() for origin in settings.origins}
        self.places = Places(settings.connection_limit, settings.address_limit)
        rate = settings.admission_rate
        self.bucket = TokenBucket(rate, max(1.0, rate), time.monotonic())

    def admit(self, connection: LabConnection, request: Request) -> Identity:
        self.places.claim(connection.place, connection.address)
        self._check_rate()
        self._check_origin(request)
        return self._identify(request)

    def opened(self, connection: LabConnection) -> None:
        """Begin to watch a token: it ends its connection when it runs out."""
        expires = connection.identity.expires
        if expires is None or connection.gone:
            return  # for ever, or over: what a lost client sent is still read
        self._watch(connection, expires, time.monotonic() + expires - time.time())

    def _watch(
        self, connection: LabConnection, expires: float, deadline: float
    ) -> None:
        # By whichever clock it runs out first: the wall clock may be set back, and the
        # other stands still while the machine sleeps.
        if connection.expiry is not None:
            connection.expiry.cancel()
        left = min(expires - time.time(), deadline - time.monotonic())
        if left <= 0:
            connection.end(TOKEN_EXPIRED)
        else:
            connection.expiry = connection.loop.call_later(
                min(left, LOOK), self._watch, connection, expires, deadline
            )

    def released(self, connection: LabConnection) -> None:
        if connection.expiry is not None:
            connection.expiry.cancel()

    def refresh(self, connection: LabConnection, token: str) -> Refreshed | None:
        """Extend a connection: the same user, perhaps other rooms, a later expiry."""
        try:
            identity = verify(self.settings.secret, token)
        except BadToken:
            connection.end(TOKEN_EXPIRED)
            return None
        if identity.user != connection.identity.user:
            connection.end(TOKEN_EXPIRED.because("the token names another user"))
            return None
        connection.identity = identity
        self.opened(connection)
        return Refreshed(identity.expires)

    def _check_rate(self) -> None:
        rate = self.settings.admission_rate
        if rate and not self.bucket.take(time.monotonic()):
            self.bucket.give_back()  # a refusal is free: nobody goes into debt here
            wait = max(1, math.ceil(self.bucket.wait()))
            raise Refused(503, "too many handshakes", {"Retry-After": f"{wait}"})

    def _check_origin(self, request: Request) -> None:
        origins = request.headers.get_all("Origin")
        if not origins:
            # Not a browser; or a page, maybe another site's, that embeds an address as
            # if it were a picture: cookies are sent then, and an Origin is not.
            if "no-cors" in request.headers.get_all("Sec-Fetch-Mode"):
                raise Refused(403, "a room cannot be embedded")
            return
        origin = origins[0].lower()
        same = self._is_here(origin, request.headers.get_all("Host"))
        if len(origins) > 1 or not (same or origin in self.origins):
            raise Refused(403, "this origin may not connect")

    def _is_here(self, origin: str, hosts: list[str]) -> bool:
        """Return whether a page comes from the host that it speaks to."""
        found = _ORIGIN.fullmatch(origin)
        if found is None or len(hosts) != 1:
            return False
        scheme, authority = found.groups()
        if scheme == "http" and self.settings.tls_cert:
            return False  # whoever is on its way can change a page that came in clear
        here = _place(scheme, hosts[0].lower())
        return here is not None and _place(scheme, authority) == here

    def _identify(self, request: Request) -> Identity:
        token = next(_tokens(request), None)
        challenge = {"WWW-Authenticate": "Bearer"}
        if token is None:
            raise Refused(401, "a token is needed", challenge)
        try:
            return verify(self.settings.secret, token)
        except BadClaim as exc:
            raise Refused(403, str(exc)) from None
        except BadToken as exc:
            raise Refused(401, str(exc), challenge) from None


# A scheme, a host, perhaps a port, and no more (RFC 6454 section 7.1).
_ORIGIN = re.compile(r"(https?)://([^/?#@\\\s]+)")


def _place(scheme: str, authority: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (host, port or (443 if scheme == "https" else 80)) if host else None


def _tokens(request: Request) -> Iterator[str]:
    """Yield what a request offers as a token, in the order of the contract."""
    for value in request.headers.get_all("Authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            yield token.strip()
    for value in request.headers.get_all("Cookie"):
        for pair in value.split(";"):
            name, _, token = pair.strip().partition("=")
            if name == "lab_token":
                yield token.strip('"')
    for value in request.headers.get_all("Sec-WebSocket-Protocol"):
        for name in value.split(","):
            if name.strip().startswith("bearer."):
                yield name.strip().removeprefix("bearer.")
    yield from parse_qs(request.path.partition("?")[2]).get("token", [])


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the admission."""
    return replace(parts, admission=TokenAdmission(settings))
