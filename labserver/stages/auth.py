"""No stranger gets a socket.

Without this, anyone who can reach the port costs memory and hears everything. A page of
another site speaks in the name of its visitor, since browsers send cookies with a
handshake to any origin.

How: the token is checked while the handshake is still HTTP, so a refusal is a status
that proxies and people understand, and costs no socket. Limits are checked first,
because that is cheaper than checking a signature. A token that expires ends its
connection, unless the client refreshes it.
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
from labserver.server.limits import TokenBucket
from labserver.server.member import Member
from labserver.server.parts import Parts
from labserver.server.places import Places
from labserver.settings import Settings

LOOK = 10.0  # seconds; the longest time between two looks at the clocks


class TokenAdmission:
    """Admits clients with a valid token and an allowed origin, up to the limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.origins = {origin.lower() for origin in settings.origins}
        self.places = Places(settings.connection_limit, settings.address_limit)
        rate = settings.admission_rate
        self.bucket = TokenBucket(rate, max(1.0, rate), time.monotonic())

    def admit(self, member: Member, request: Request) -> Identity:
        self.places.claim(member.place, member.address)
        self._check_rate()
        self._check_origin(request)
        return self._identify(request)

    def opened(self, member: Member) -> None:
        """Begin to watch a token: when it expires, its connection ends."""
        expires = member.identity.expires
        if expires is None or member.gone:
            return  # no expiry; or a lost client, whose last messages are still read
        self._watch(member, expires, time.monotonic() + expires - time.time())

    def _watch(self, member: Member, expires: float, deadline: float) -> None:
        # The token expires by the first of two clocks: the wall clock may be set back,
        # and the monotonic clock stands still while the machine sleeps.
        if member.expiry is not None:
            member.expiry.cancel()
        left = min(expires - time.time(), deadline - time.monotonic())
        if left <= 0:
            member.end(TOKEN_EXPIRED)
        else:
            member.expiry = member.loop.call_later(
                min(left, LOOK), self._watch, member, expires, deadline
            )

    def released(self, member: Member) -> None:
        if member.expiry is not None:
            member.expiry.cancel()

    def refresh(self, member: Member, token: str) -> Refreshed | None:
        """Give a connection a new token of the same user, with its rooms and expiry.

        Returns:
            The answer to the client, or None if the token ended the connection.

        """
        try:
            identity = verify(self.settings.secret, token)
        except BadToken:
            member.end(TOKEN_EXPIRED)
            return None
        if identity.user != member.identity.user:
            member.end(TOKEN_EXPIRED.because("the token names another user"))
            return None
        member.identity = identity
        self.opened(member)
        return Refreshed(identity.expires)

    def _check_rate(self) -> None:
        rate = self.settings.admission_rate
        if rate and not self.bucket.take(time.monotonic()):
            self.bucket.give_back()  # a refusal is free, so the bucket has no debt
            wait = max(1, math.ceil(self.bucket.wait()))
            raise Refused(503, "too many handshakes", {"Retry-After": f"{wait}"})

    def _check_origin(self, request: Request) -> None:
        origins = request.headers.get_all("Origin")
        if not origins:
            # Not a browser; or a page that embeds this address as a picture. Then the
            # browser sends cookies and no Origin, for pages of other sites, too.
            if "no-cors" in request.headers.get_all("Sec-Fetch-Mode"):
                raise Refused(403, "a room cannot be embedded")
            return
        origin = origins[0].lower()
        same = self._is_here(origin, request.headers.get_all("Host"))
        if len(origins) > 1 or not (same or origin in self.origins):
            raise Refused(403, "this origin may not connect")

    def _is_here(self, origin: str, hosts: list[str]) -> bool:
        """Return whether a page came from the host that its request is sent to."""
        found = _ORIGIN.fullmatch(origin)
        if found is None or len(hosts) != 1:
            return False
        scheme, authority = found.groups()
        if scheme == "http" and self.settings.tls_cert:
            return False  # anyone on the way can change a page sent over plain HTTP
        here = _place(scheme, hosts[0].lower())
        return here is not None and _place(scheme, authority) == here

    def _identify(self, request: Request) -> Identity:
        token = next(tokens(request), None)
        challenge = {"WWW-Authenticate": "Bearer"}
        if token is None:
            raise Refused(401, "a token is needed", challenge)
        try:
            return verify(self.settings.secret, token)
        except BadClaim as exc:
            raise Refused(403, str(exc)) from None
        except BadToken as exc:
            raise Refused(401, str(exc), challenge) from None


# A scheme, a host, perhaps a port, and nothing else (RFC 6454 section 7.1).
_ORIGIN = re.compile(r"(https?)://([^/?#@\\\s]+)")


def _place(scheme: str, authority: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (host, port or (443 if scheme == "https" else 80)) if host else None


def tokens(request: Request) -> Iterator[str]:
    """Yield the tokens that a request brings, in the order of the wire contract."""
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
