"""JSON and CBOR compared: bytes on the wire, and CPU time of the server.

    python -m bench.codecs

The server does not decode the payload of a JSON message. For CBOR it is transcoded,
once in each direction. This prints the size of the frames, and what they cost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import cbor2
from rich.console import Console
from rich.table import Table

from labserver.contract import wire
from labserver.contract.cbor import from_cbor
from labserver.contract.decoding import decode
from labserver.contract.messages import body, event
from labserver.contract.wire import Variant

PAYLOADS = {
    "a word": "hello",
    "a quote": {"symbol": "ACME", "bid": 101.25, "ask": 101.5, "size": 1200},
    "a chat line": {"text": "the quick brown fox jumps over the lazy dog " * 3},
    "numbers": list(range(100, 200)),
}
VARIANTS = {
    "JSON": Variant(),
    "CBOR": Variant(wire.CBOR),
    "JSON deflate": Variant(wire.JSON, 12),
    "CBOR deflate": Variant(wire.CBOR, 12),
}
ROUNDS, CALLS = 7, 2000


def microseconds(call: Callable[[], object]) -> float:
    """Return the CPU time of a call in microseconds: the minimum of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, (time.process_time() - started) / CALLS)
    return best * 1e6


def main() -> None:
    table = Table("payload", "as", "frame, bytes", "frame, us", "read a publish, us")
    for name, payload in PAYLOADS.items():
        message = {"type": "publish", "room": "lobby", "payload": payload}
        text, packed = json.dumps(message, separators=(",", ":")), cbor2.dumps(message)
        published = decode(text)
        news = event("lobby", 12345, body("ann", published.payload))
        reading = {
            wire.JSON: microseconds(lambda text=text: decode(text)),
            wire.CBOR: microseconds(lambda packed=packed: decode(from_cbor(packed))),
        }
        for label, variant in VARIANTS.items():
            table.add_row(
                name,
                label,
                str(len(wire.frame(variant, news.json))),
                f"{microseconds(lambda v=variant, n=news: wire.frame(v, n.json)):.1f}",
                f"{reading[variant.subprotocol]:.1f}"
                if not variant.window_bits
                else "",
            )
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
