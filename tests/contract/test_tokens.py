"""Tokens: which ones are trusted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from typing import Any

import jwt
import pytest

from labserver.contract.tokens import (
    ANONYMOUS,
    BadClaim,
    BadToken,
    Identity,
    issue,
    verify,
)

SECRET = "a secret of thirty-two bytes or more"
OTHER = "another secret of thirty-two bytes!!"


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + 60, **more}


def signed(secret: str = SECRET, algorithm: str = "HS256", **more: Any) -> str:
    return jwt.encode(claims(**more), secret, algorithm=algorithm)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def handmade(secret: str, body: dict[str, Any]) -> str:
    """Return a token with claims or a secret that the library refuses to sign."""
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(body)}"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def test_handmade_token_is_good_when_its_claims_are() -> None:
    assert verify(SECRET, handmade(SECRET, claims())).user == "ann"


def test_issued_token_is_verified() -> None:
    before = time.time()
    identity = verify(SECRET, issue(SECRET, "ann", ["lobby", "team:*"], ttl=60))
    assert identity.user == "ann"
    assert identity.rooms == ("lobby", "team:*")
    assert identity.expires is not None
    assert before + 59 <= identity.expires <= time.time() + 60


def test_token_without_rooms_opens_every_room() -> None:
    assert verify(SECRET, issue(SECRET, "ann")).may_enter("anything")


def test_token_with_an_empty_list_opens_no_room() -> None:
    assert not verify(SECRET, issue(SECRET, "ann", [])).may_enter("anything")


@pytest.mark.parametrize(
    ("claim", "room", "allowed"),
    [
        ("lobby", "lobby", True),
        ("lobby", "lobby2", False),
        ("lobby", "Lobby", False),
        ("team:*", "team:red", True),
        ("team:*", "team:", True),
        ("team:*", "team", False),
        ("team:*", "x-team:red", False),
        ("*", "anything", True),
        ("a*b", "axb", False),
        ("a*b", "a*b", True),
        ("", "lobby", False),
    ],
)
def test_claim_is_a_name_or_a_prefix(claim: str, room: str, allowed: bool) -> None:
    assert Identity("ann", (claim,)).may_enter(room) is allowed


def test_anonymous_may_enter_everywhere_for_ever() -> None:
    assert ANONYMOUS.may_enter("anything")
    assert ANONYMOUS.expires is None


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS256"])
def test_unsigned_token_is_refused(algorithm: str) -> None:
    token = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}."
    with pytest.raises(BadToken):
        verify(SECRET, token)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_other_algorithm_with_the_right_secret_is_refused(algorithm: str) -> None:
    with pytest.raises(BadToken):
        verify(SECRET, signed(algorithm=algorithm))


def test_token_signed_with_another_secret_is_refused() -> None:
    with pytest.raises(BadToken):
        verify(SECRET, signed(OTHER))


def test_token_signed_with_no_secret_is_refused() -> None:
    with pytest.raises(BadToken):
        verify(SECRET, handmade("", claims()))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_tampered_token_is_refused(index: int) -> None:
    parts = signed().split(".")
    parts[index] = (
        part(claims(sub="root")) if index == 1 else parts[index][:-4] + "AAAA"
    )
    with pytest.raises(BadToken):
        verify(SECRET, ".".join(parts))


def test_expired_token_is_refused_without_leeway() -> None:
    with pytest.raises(BadToken, match="expired"):
        verify(SECRET, signed(exp=int(time.time()) - 1))


def test_token_before_its_time_is_refused() -> None:
    with pytest.raises(BadToken):
        verify(SECRET, signed(nbf=int(time.time()) + 60))


@pytest.mark.parametrize("missing", ["sub", "exp"])
def test_token_without_a_needed_claim_is_refused(missing: str) -> None:
    body = claims()
    del body[missing]
    with pytest.raises(BadToken):
        verify(SECRET, jwt.encode(body, SECRET, algorithm="HS256"))


@pytest.mark.parametrize("exp", ["soon", None, [], {}, True, 10**400, 1e300, math.inf])
def test_expiry_of_another_kind_never_raises_anything_else(exp: Any) -> None:
    token = handmade(SECRET, claims(exp=exp))
    if exp == 1e300:
        assert verify(SECRET, token).expires == 1e300
    else:
        with pytest.raises(BadToken):
            verify(SECRET, token)


@pytest.mark.parametrize("rooms", ["lobby", 5, {"lobby": 1}, [1], [None], [["a"]]])
def test_rooms_that_are_no_list_of_names_are_a_bad_claim(rooms: Any) -> None:
    with pytest.raises(BadClaim):
        verify(SECRET, signed(rooms=rooms))


@pytest.mark.parametrize("user", ["", "x" * 129, "\ud800", "a\udc80"], ids=ascii)
def test_user_name_has_a_length_and_is_text(user: str) -> None:
    with pytest.raises(BadClaim):
        verify(SECRET, signed(sub=user))


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "\x00", "\udc80.\udc80.\udc80", "é.é.é", "." * 9000]
    + ["eyJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJIUzI1NiJ9..", part([]) + ".e30.AA"],
    ids=lambda token: ascii(token[:12]),
)
def test_garbage_is_a_bad_token(token: str) -> None:
    with pytest.raises(BadToken):
        verify(SECRET, token)


def test_deeply_nested_token_is_a_bad_token() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=")
    with pytest.raises(BadToken):
        verify(SECRET, f"{deep}.{deep}.AA")


@pytest.mark.parametrize("token", ["abc.def.ghi", signed(OTHER), signed(exp=1)])
def test_message_never_quotes_the_token(token: str) -> None:
    with pytest.raises(BadToken) as caught:
        verify(SECRET, token)
    words = str(caught.value)
    assert not any(piece in words for piece in token.split("."))
