"""Tokens: JWTs signed with HS256, carrying who may enter which rooms until when."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt

from labserver.errors import LabError


class BadToken(LabError):
    """A token cannot be trusted. The message says why and never quotes it."""


class BadClaim(BadToken):
    """A token is genuine, but what it claims makes no sense."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is on a connection.

    Args:
        user: Name, the token's ``sub``.
        rooms: Names, or prefixes that end in ``*``; None allows every room.
        expires: Unix time in seconds; None for never.

    """

    user: str = "anonymous"
    rooms: tuple[str, ...] | None = None
    expires: float | None = None

    def at(self, address: str) -> str:
        """Return the name that a limit counts by: the user, or else the address."""
        return address if self is ANONYMOUS else f"user {self.user}"

    def may_enter(self, room: str) -> bool:
        """Return whether the token's claim covers ``room``."""
        if self.rooms is None:
            return True
        return any(
            room.startswith(name[:-1]) if name.endswith("*") else room == name
            for name in self.rooms
        )


ANONYMOUS = Identity()


def issue(
    secret: str, user: str, rooms: Iterable[str] | None = None, ttl: float = 3600
) -> str:
    """Return a token for ``user`` that is good for ``ttl`` seconds."""
    claims: dict[str, Any] = {"sub": user, "exp": int(time.time() + ttl)}
    if rooms is not None:
        claims["rooms"] = list(rooms)
    with warnings.catch_warnings():
        # The command line says once that a secret is short; not with every token.
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
        return jwt.encode(claims, secret, algorithm="HS256")


def verify(secret: str, token: str) -> Identity:
    """Return the identity that ``token`` names.

    The algorithm is pinned: a token that chooses its own is an attack (RFC 8725
    section 3.1). Expiry has no leeway: this machine's clock decides.

    Raises:
        BadToken: The signature is wrong, or the token has expired.
        BadClaim: A claim has the wrong type.

    """
    identity = _signed(secret, token)
    if identity.expires is not None and identity.expires <= time.time():
        raise BadToken("the token has expired")
    return identity


# Clients that reconnect bring the same tokens: each signature (60 us, an eighth of a
# handshake) is checked once. Only valid tokens are kept, so strangers cannot fill it.
@lru_cache(maxsize=4096)
def _signed(secret: str, token: str) -> Identity:
    """Return the identity that a genuine token names, even if it has expired."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            claims = jwt.decode(
                token,
                secret,
                algorithms=["HS256"],
                options={"require": ["exp", "sub"], "verify_exp": False},
            )
        expires = float(claims["exp"])
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        raise BadToken("the token is not valid") from None
    if not math.isfinite(expires):
        raise BadToken("the token is not valid")
    user, rooms = claims["sub"], claims.get("rooms")
    if not isinstance(user, str) or not 1 <= len(user) <= 128 or _has_surrogate(user):
        raise BadClaim("the token's sub must be a text of 1 to 128 characters")
    if rooms is None:
        return Identity(user, None, expires)
    if not isinstance(rooms, list) or not all(isinstance(name, str) for name in rooms):
        raise BadClaim("the token's rooms must be a list of names")
    return Identity(user, tuple(rooms), expires)


def _has_surrogate(text: str) -> bool:
    """Return whether JSON escapes made a text that is not Unicode."""
    return any("\ud800" <= char <= "\udfff" for char in text)
