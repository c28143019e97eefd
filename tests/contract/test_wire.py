"""Frames: websockets' own parser reads what the lab builds."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

import cbor2
import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from labserver.contract.messages import event, gap
from labserver.contract.wire import (
    CBOR,
    COMPRESS_FROM,
    JSON,
    PLAIN,
    Variant,
    chunk,
    deflate_offer,
    frame,
    negotiated,
)

VARIANTS = [Variant(name, bits) for name in (JSON, CBOR) for bits in (0, 9, 12, 15)]


def parsed(data: bytes, variant: Variant = PLAIN) -> list[Frame]:
    """Return the frames in ``data``, read as a client would."""
    reader = StreamReader()
    reader.feed_data(data)
    bits = variant.window_bits
    extensions = [PerMessageDeflate(True, True, bits, bits)] if bits else []
    frames = []
    while reader.buffer:
        parser = Frame.parse(
            reader.read_exact, mask=False, max_size=None, extensions=extensions
        )
        frames.append(finished(parser))
    return frames


def finished(parser: Iterator[None]) -> Frame:
    try:
        next(parser)
    except StopIteration as exc:
        return exc.value
    raise AssertionError("the frame is longer than it says")


def text_of(length: int) -> bytes:
    """Return JSON of some length in bytes."""
    return b'"' + b"x" * (length - 2) + b'"'


def noise_of(length: int) -> bytes:
    """Return JSON of some length in bytes, which compression does not shrink."""
    words = b"".join(b"%08x" % zlib.crc32(b"%d" % n) for n in range(length // 8 + 1))
    return b'"' + words[: length - 2] + b'"'


@pytest.mark.parametrize("length", [2, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("make", [text_of, noise_of])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_frame_is_read_back_whatever_its_length(
    length: int, make, variant: Variant
) -> None:
    text = make(length)
    (read,) = parsed(frame(variant, text), variant)
    assert read.fin
    if variant.subprotocol == CBOR:
        assert read.opcode == Opcode.BINARY
        assert cbor2.loads(read.data) == json.loads(text)
    else:
        assert read.opcode == Opcode.TEXT
        assert read.data == text


@pytest.mark.parametrize(
    ("length", "header"), [(125, 2), (126, 4), (65535, 4), (65536, 10)]
)
def test_length_is_written_in_the_shortest_form(length: int, header: int) -> None:
    assert len(frame(PLAIN, text_of(length))) == header + length


def test_server_frames_are_not_masked() -> None:
    assert frame(PLAIN, b"1")[1] & 0x80 == 0


def test_short_messages_are_not_compressed() -> None:
    variant = Variant(JSON, 12)
    assert frame(variant, text_of(COMPRESS_FROM - 1)) == frame(
        PLAIN, text_of(COMPRESS_FROM - 1)
    )
    assert len(frame(variant, text_of(COMPRESS_FROM))) < COMPRESS_FROM


def test_compressed_frames_do_not_depend_on_what_went_before() -> None:
    variant = Variant(JSON, 12)
    again = [frame(variant, noise_of(500)) for _ in range(3)]
    assert again[0] == again[1] == again[2]
    assert [read.data for read in parsed(b"".join(again), variant)] == (
        [noise_of(500)] * 3
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_chunk_is_its_frames_one_after_the_other(variant: Variant) -> None:
    events = [
        event("a", 1, b'"from":"ann","payload":1}'),
        gap("a", 2, 5, "broker"),
        event("a", 6, b'"from":"ann","payload":"%b"}' % (b"x" * 300)),
    ]
    whole = chunk(variant, "a", events)
    read = parsed(whole.data, variant)
    loads = cbor2.loads if variant.subprotocol == CBOR else json.loads
    said = [loads(each.data) for each in read]
    assert said == [json.loads(each.json) for each in events]
    singles = list(whole.singles())
    assert b"".join(single.data for single in singles) == whole.data
    assert [(single.first, single.last) for single in singles] == [
        (each.first, each.last) for each in events
    ]


def test_variant_of_a_plain_connection_is_json() -> None:
    assert negotiated(None, []) == PLAIN
    assert negotiated(JSON, []) == PLAIN
    assert negotiated(CBOR, []) == Variant(CBOR, 0)


@pytest.mark.parametrize(
    ("offer", "bits"),
    [
        ([], 12),
        ([("client_max_window_bits", None)], 12),
        ([("server_max_window_bits", "10")], 9),
        ([("server_max_window_bits", "9")], 9),
        ([("server_max_window_bits", "15")], 12),
        ([("server_no_context_takeover", None)], 12),
    ],
    ids=str,
)
def test_window_is_no_larger_than_either_side_wants(offer, bits: int) -> None:
    parameters, extension = deflate_offer().process_request_params(offer, [])
    assert ("server_no_context_takeover", None) in parameters
    assert extension.local_no_context_takeover
    assert negotiated(None, [extension]) == Variant(JSON, bits)


def test_message_is_transcoded_once_for_all_variants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    dumps = cbor2.dumps
    monkeypatch.setattr(cbor2, "dumps", lambda value: calls.append(1) or dumps(value))
    text = b'{"type":"message","payload":"%b"}' % (b"once " * 100)
    for bits in (0, 9, 12):
        frame(Variant(CBOR, bits), text)
    assert len(calls) == 1
