"""Chapter 1: compute the accept key of a handshake (RFC 6455 section 4.2.2)."""

from __future__ import annotations

import base64
import hashlib

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def without_guid(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()


def hexadecimal(key: str) -> str:
    return hashlib.sha1((key + GUID).encode()).hexdigest()


def hexadecimal_in_base64(key: str) -> str:
    return base64.b64encode(hexadecimal(key).encode()).decode()


def decoded_first(key: str) -> str:
    digest = hashlib.sha1(base64.b64decode(key) + GUID.encode()).digest()
    return base64.b64encode(digest).decode()


def in_bytes(key: str) -> bytes:
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest())


EXERCISE = Exercise(
    name="accept_key",
    cases=(
        Case(("dGhlIHNhbXBsZSBub25jZQ==",), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        Case(("AAAAAAAAAAAAAAAAAAAAAA==",), "ICX+Yqv66kxgM0FcWaLWlFLwTAI="),
    ),
    mistakes=(
        Mistake(
            without_guid,
            "the GUID is missing. A server that only hashes may not know WebSocket at "
            "all; the GUID is what proves that it does.",
        ),
        Mistake(
            hexadecimal,
            "this is the hash in hexadecimal. The header carries its 20 bytes in "
            "base64.",
        ),
        Mistake(
            hexadecimal_in_base64,
            "this is base64 of the hexadecimal text, 56 characters. Use `digest()`, "
            "not `hexdigest()`.",
        ),
        Mistake(
            decoded_first,
            "the key was decoded first. Hash the text of the header as it stands; "
            "the 16 bytes in it are not needed.",
        ),
        Mistake(
            in_bytes, "right bytes, wrong type: a header is text, so `.decode()` it."
        ),
    ),
    look_at="RFC 6455 section 4.2.2, and `websockets.utils.accept_key`.",
    praise="That is all the cryptography in a handshake. It proves that the server "
    "knows the protocol; it does not prove who the server is.",
)
