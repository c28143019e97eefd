"""Mistakes of stage auth: tokens checked too late, wrongly, or only once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
from websockets.http11 import Request

from labserver.contract.closing import TOKEN_EXPIRED
from labserver.contract.messages import Refreshed
from labserver.contract.tokens import ANONYMOUS, BadToken, Identity, verify
from labserver.errors import Refused
from labserver.mistakes.mistake import Extend, Mistake
from labserver.server.member import Member
from labserver.server.parts import Parts
from labserver.settings import Settings
from labserver.stages.auth import TokenAdmission, tokens


class AcceptThenCheck(TokenAdmission):
    """Open the socket for every client, and close it if the token is bad."""

    def _identify(self, request: Request) -> Identity:
        try:
            return super()._identify(request)
        except Refused:
            return ANONYMOUS

    def opened(self, member: Member) -> None:
        if member.identity is ANONYMOUS:
            member.end(TOKEN_EXPIRED)
        super().opened(member)


class AlgorithmFromToken(TokenAdmission):
    """Let the token choose the algorithm with which it is checked."""

    def _identify(self, request: Request) -> Identity:
        token = next(tokens(request), "")
        try:
            algorithm = jwt.get_unverified_header(token)["alg"]
            signed = algorithm != "none"
            claims = jwt.decode(
                token,
                self.settings.secret if signed else "",
                algorithms=[algorithm],
                options={"verify_signature": signed},
            )
        except (jwt.PyJWTError, KeyError):
            raise Refused(401, "the token is not valid") from None
        return _identity(claims)


class PrefixCompare(TokenAdmission):
    """Compare only as many characters of the signature as were sent."""

    def _identify(self, request: Request) -> Identity:
        signed, _, signature = next(tokens(request), "").rpartition(".")
        secret = self.settings.secret.encode()
        digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        expected = base64.urlsafe_b64encode(digest).decode()
        if not signed or signature != expected[: len(signature)]:
            raise Refused(401, "the token is not valid")
        claims = signed.partition(".")[2]
        return _identity(json.loads(base64.urlsafe_b64decode(claims + "==")))


class NoOriginCheck(TokenAdmission):
    """Trust the cookie of a browser, whichever page opened the connection."""

    def _check_origin(self, request: Request) -> None:
        pass


class ExpiryOnce(TokenAdmission):
    """Check the token's expiry in the handshake, and never again."""

    def opened(self, member: Member) -> None:
        pass


class HeaderOnly(TokenAdmission):
    """Read the token where a script in a browser cannot write it."""

    def _identify(self, request: Request) -> Identity:
        if "Authorization" not in request.headers:
            raise Refused(401, "a token is needed")
        return super()._identify(request)


class AnybodysToken(TokenAdmission):
    """Take any genuine token in a refresh, whoever it names."""

    def refresh(self, member: Member, token: str) -> Refreshed | None:
        try:
            user = verify(self.settings.secret, token).user
        except BadToken:
            return super().refresh(member, token)
        member.identity = replace(member.identity, user=user)
        return super().refresh(member, token)


class TimerOutlives(TokenAdmission):
    """Leave the timer of a connection that has ended, with all that it holds."""

    def released(self, member: Member) -> None:
        pass


def _identity(claims: dict[str, Any]) -> Identity:
    rooms = claims.get("rooms")
    return Identity(claims["sub"], rooms and tuple(rooms), claims["exp"])


def _admission(made: Callable[[Settings], TokenAdmission]) -> Extend:
    def extend(parts: Parts, settings: Settings) -> Parts:
        return replace(parts, admission=made(settings))

    return extend


MISTAKES = (
    Mistake(
        "accept-then-check",
        "auth",
        "A stranger gets a socket, its memory and a hello before it is refused.",
        "tutorials that take the token from the first message; a browser hides the "
        "401 (whatwg/websockets#39)",
        "strangers_are_refused_with_http",
        _admission(AcceptThenCheck),
    ),
    Mistake(
        "algorithm-from-token",
        "auth",
        "A token with alg none needs no signature, so anyone can forge one.",
        "RFC 8725 section 3.1",
        "forged_tokens_are_refused",
        _admission(AlgorithmFromToken),
    ),
    Mistake(
        "prefix-compare",
        "auth",
        "A signature that is cut short is accepted.",
        "strncmp(expected, given, strlen(given)), or startswith",
        "forged_tokens_are_refused",
        _admission(PrefixCompare),
    ),
    Mistake(
        "no-origin-check",
        "auth",
        "A page of another site can act in the name of its visitor.",
        "RFC 6455 section 10.2; Socket.IO: its CORS setting does not cover WebSocket",
        "pages_of_other_sites_are_refused",
        _admission(NoOriginCheck),
    ),
    Mistake(
        "expiry-once",
        "auth",
        "A client that was admitted once stays for ever, long after its token expired.",
        "every tutorial whose only check is in the handshake",
        "expired_token_ends_its_connection",
        _admission(ExpiryOnce),
    ),
    Mistake(
        "header-only",
        "auth",
        "No page can connect: a script in a browser cannot set Authorization.",
        "middleware for HTTP APIs, put before WebSockets (whatwg/websockets#16)",
        "token_may_come_in_four_ways",
        _admission(HeaderOnly),
    ),
    Mistake(
        "anybodys-token",
        "auth",
        "A connection becomes another user's, with all that it was sent before.",
        "a check of the signature alone where a token is renewed",
        "new_token_is_for_the_same_user",
        _admission(AnybodysToken),
    ),
    Mistake(
        "timer-outlives",
        "auth",
        "The memory of each connection is held until its token expires, perhaps a day.",
        "setTimeout(() => socket.close(), left) without clearTimeout on close",
        "ended_connection_is_not_held",
        _admission(TimerOutlives),
    ),
)
