"""The wire contract as an AsyncAPI 3 document, from the types that decode and encode.

The messages are those of :mod:`labserver.contract.messages`. What no type says is here:
errors, statuses before the upgrade, and the two messages whose bytes the server copies.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from labserver import __version__
from labserver.contract import messages
from labserver.contract.closing import CLOSES, after_status
from labserver.contract.messages import DEPTH_LIMIT, ELEMENTS_LIMIT, SIZE_LIMIT_HEADER

# By error code: when it is sent.
ERRORS = {
    "bad_json": "the text is not JSON that all decoders read alike",
    "bad_message": "a field is missing, or has the wrong type",
    "unknown_type": "there is no such type",
    "forbidden": "the token's rooms do not cover this room",
    "room_limit": "the connection is in as many rooms as it may be",
    "rate_limited": "too many messages, or too many new rooms",
    "broker_down": "the broker cannot be reached: nothing was acknowledged, try again",
}
# By HTTP status: when a handshake is refused with it.
STATUSES = {
    400: "no Host, two of them, or not HTTP/1.1",
    401: "no token, or a bad or expired one",
    403: "the origin or a claim is not allowed",
    405: "another method than GET",
    426: "not an upgrade, or another version than 13",
    429: "too many connections from this address",
    431: "the head of the request is too long",
    503: "full, draining, or too many handshakes",
}
CLIENT: tuple[type[Struct], ...] = (
    messages.Echo,
    messages.Join,
    messages.Leave,
    messages.Publish,
    messages.Ping,
    messages.Refresh,
)
SERVER: tuple[type[Struct], ...] = (
    messages.Hello,
    messages.Joined,
    messages.Left,
    messages.Ack,
    messages.Pong,
    messages.Refreshed,
    messages.Gap,
    messages.Present,
    messages.Presence,
    messages.Error,
)
# To JSON Schema an integer is a number, too, and this is the one that is not.
HUGE = {"anyOf": [{"minimum": 2**63}, {"exclusiveMaximum": -(2**63)}]}
FLOAT = {"type": "number", "not": {"type": "integer", **HUGE}}
TEMPLATE = "#/components/schemas/{name}"


def _copied() -> dict[str, Any]:
    """Return the schemas of messages whose bytes are copied and not encoded."""
    text, ref = {"type": "string"}, {"type": ["string", "number"]}
    message = {"room": text, "seq": {"type": "integer"}, "from": text, "payload": {}}
    return {
        "Message": {
            "title": "Message",
            "type": "object",
            "properties": {"type": {"enum": ["message"]}, **message},
            "required": ["type", *message],
        },
        "EchoAnswer": {
            "title": "EchoAnswer",
            "type": "object",
            "properties": {"type": {"enum": ["echo"]}, "payload": {}, "ref": ref},
            "required": ["type", "payload"],
        },
    }


def asyncapi() -> dict[str, Any]:
    """Return the document: plain dictionaries, ready for JSON."""
    _, schemas = msgspec.json.schema_components(
        [*CLIENT, *SERVER], ref_template=TEMPLATE
    )
    schemas |= _copied()
    for schema in schemas.values():
        for each in schema.get("properties", {}).values():
            if pattern := each.get("pattern"):  # ECMA-262 has no \A and \Z
                each["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
    for kind in CLIENT:
        schemas[kind.__name__]["properties"]["ref"]["anyOf"][-1] = FLOAT
    schemas["Error"]["properties"]["code"] = {"enum": list(ERRORS)}
    schemas["Gap"]["properties"]["reason"] = {"enum": ["slow", "broker"]}
    to_server = [kind.__name__ for kind in CLIENT]
    to_client = [kind.__name__ for kind in SERVER] + list(_copied())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "labserver",
            "version": __version__,
            "description": "The wire contract, version 1. In words: "
            "notebooks/reference/contract.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "connection": {
                "address": "/",
                "description": f"One WebSocket. At most {DEPTH_LIMIT} levels and "
                f"{ELEMENTS_LIMIT} values in a message.",
                "messages": {
                    name: {"$ref": f"#/components/messages/{name}"}
                    for name in [*to_server, *to_client]
                },
                "bindings": {"ws": {"method": "GET"}},
                "x-subprotocols": ["lab.json", "lab.cbor", "bearer.TOKEN"],
                "x-headers": {
                    SIZE_LIMIT_HEADER: "of the upgrade: bytes that a message may have",
                    "Retry-After": "of 429 and 503: seconds until the next attempt",
                },
            }
        },
        "operations": {
            "fromClient": _operation("receive", to_server),
            "toClient": _operation("send", to_client),
        },
        "components": {
            "schemas": schemas,
            "messages": {
                name: {"name": name, "payload": {"$ref": TEMPLATE.format(name=name)}}
                for name in [*to_server, *to_client]
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": _key("cookie", "lab_token"),
                "query": _key("query", "token"),
            },
        },
        "x-errors": ERRORS,
        "x-closes": {
            str(code): {"reason": each.reason, "comes_back": each.comes_back.value}
            for code, each in CLOSES.items()
        },
        "x-statuses": {
            str(code): {"when": when, "comes_back": after_status(code).value}
            for code, when in STATUSES.items()
        },
    }


def _operation(action: str, names: list[str]) -> dict[str, Any]:
    channel = "#/channels/connection"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
    }


def _key(place: str, name: str) -> dict[str, str]:
    return {"type": "httpApiKey", "in": place, "name": name}
