"""Decoding: whatever a client sends, it raises nothing but BadMessage."""

from __future__ import annotations

import json
import math
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labserver.contract import decoding, messages
from labserver.contract.cbor import from_cbor, to_cbor
from labserver.contract.decoding import decode, ref_of, well_formed
from labserver.contract.messages import (
    DEPTH_LIMIT,
    ELEMENTS_LIMIT,
    Cursor,
    Join,
    Ping,
    Publish,
    body,
    event,
    gap,
)
from labserver.errors import BadMessage

fuzz = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
rooms = st.from_regex(messages.ROOM_PATTERN)
almost_json = st.text(alphabet='{}[]",:\\ue+-.019 tfn\n\ud7ff\U0001f600', max_size=60)
objects = st.fixed_dictionaries(
    {"type": st.sampled_from([*sorted(decoding._TYPES), "hello", ""]) | scalars},
    optional={
        "room": rooms | scalars,
        "payload": values,
        "after": st.fixed_dictionaries({"epoch": scalars, "seq": scalars}) | scalars,
        "key": scalars,
        "ref": values,
        "token": scalars,
    },
)


def code_of(text: str) -> str:
    with pytest.raises(BadMessage) as caught:
        decode(text)
    assert caught.value.detail
    return caught.value.code


@fuzz
@given(st.text() | almost_json | objects.map(json.dumps))
@example('{"type":"ping","ref":"\\ud800"}')
@example('{"type":"ping","type":"\\u0070ing","ref":1,"ref":2}')
@example('{"type":"publish","room":"a","payload":"\\ud800"}')
@example('"' * 500 + "[" * 500)
def test_decode_raises_nothing_but_bad_message(text: str) -> None:
    try:
        message = decode(text)
    except BadMessage as exc:
        assert exc.code in ("bad_json", "bad_message", "unknown_type")
        assert 0 < len(exc.detail) <= 200
    else:
        assert isinstance(message, messages.ClientMessage)
        json.loads(text)


@fuzz
@given(st.text() | almost_json | values.map(json.dumps))
def test_well_formed_text_is_json_to_other_decoders_too(text: str) -> None:
    try:
        accepted = bytes(well_formed(text))
    except BadMessage as exc:
        assert exc.code == "bad_json"
        assert is_refused_json(text)
    else:
        assert accepted.decode() == text.strip(" \t\r\n")
        json.loads(text, parse_constant=refuse_constant)
        to_cbor(accepted)


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def is_refused_json(text: str) -> bool:
    """Return whether a text must be refused: it is not JSON, or has lone surrogates.

    Python's decoder accepts lone surrogates.
    """
    try:
        json.loads(text, parse_constant=refuse_constant)
    except ValueError:
        return True
    return "\\ud" in text.lower() or any(0xD800 <= ord(c) <= 0xDFFF for c in text)


@fuzz
@given(rooms, values, st.none() | st.text(min_size=1, max_size=128))
def test_publish_keeps_the_bytes_of_its_payload(
    room: str, payload: Any, key: str | None
) -> None:
    written = json.dumps(payload, ensure_ascii=False, indent=1)
    fields = {"type": "publish", "room": room, **({"key": key} if key else {})}
    text = json.dumps(fields)[:-1] + f', "payload": {written} }}'
    message = decode(text)
    assert isinstance(message, Publish)
    assert (message.room, message.key) == (room, key)
    assert bytes(message.payload).decode() == written
    sent = event(room, 7, body("ann", message.payload)).json
    assert sent.endswith(f'"payload":{written}}}'.encode())
    assert json.loads(sent) == {
        "type": "message",
        "room": room,
        "seq": 7,
        "from": "ann",
        "payload": payload,
    }


@fuzz
@given(st.text(min_size=1))
def test_a_user_name_never_breaks_out_of_its_place(user: str) -> None:
    sent = json.loads(event("a", 1, body(user, msgspec.Raw(b"1"))).json)
    assert sent["from"] == user
    assert set(sent) == {"type", "room", "seq", "from", "payload"}


@fuzz
@given(st.text(max_size=128) | st.integers(-(2**63), 2**63 - 1) | st.floats())
def test_ref_comes_back_as_it_was_sent(ref: str | int | float) -> None:
    if isinstance(ref, float) and not math.isfinite(ref):
        return  # not JSON
    message = decode(json.dumps({"type": "ping", "ref": ref}))
    assert isinstance(message, Ping)
    answer = json.loads(messages.encode(messages.Pong(message.ref)))
    assert answer == {"type": "pong", "ref": ref}
    assert type(answer["ref"]) is type(ref)


@fuzz
@given(st.binary(max_size=80) | values.map(cbor2.dumps))
@example(cbor2.dumps({1: 1, "1": 2}))
@example(b"\x81" * 60000)
@example(b"\x9b" + b"\xff" * 8)
@example(b"\xc2" + cbor2.dumps(b"\xff" * 60000))
def test_from_cbor_raises_nothing_but_bad_json(data: bytes) -> None:
    try:
        text = from_cbor(data)
    except BadMessage as exc:
        assert exc.code == "bad_json"
        assert 0 < len(exc.detail) <= 200
    else:
        json.loads(text, parse_constant=refuse_constant)


@fuzz
@given(values)
def test_cbor_says_the_same_as_json(value: Any) -> None:
    assert json.loads(from_cbor(cbor2.dumps(value))) == value
    assert cbor2.loads(to_cbor(json.dumps(value).encode())) == value


@pytest.mark.parametrize("value", ["1", b"1", 1, [1, 2], {}], ids=repr)
def test_no_cbor_tag_but_big_numbers_is_worked_out(value: Any) -> None:
    for tag in {*range(1100), *range(43000, 43010), 99999}:
        data = cbor2.dumps(cbor2.CBORTag(tag, value))
        if tag in (2, 3) and value == b"1":
            assert from_cbor(data) in ("49", "-50")
        else:
            with pytest.raises(BadMessage):
                from_cbor(data)


@pytest.mark.timeout(5)
def test_a_cbor_pattern_is_not_compiled() -> None:
    # re.compile takes half a minute for this pattern.
    data = cbor2.dumps(cbor2.CBORTag(35, "(?i)" + "[\x01-\U0010ffff]" * 5000))
    with pytest.raises(BadMessage):
        from_cbor(data)


@pytest.mark.timeout(5)
def test_colliding_cbor_keys_cost_nothing() -> None:
    data = cbor2.dumps({number * (2**61 - 1): 0 for number in range(6000)})
    with pytest.raises(BadMessage):
        from_cbor(data)


@pytest.mark.parametrize("value", [1, [1], {"type": "ping"}], ids=repr)
def test_self_described_cbor_is_cbor(value: Any) -> None:
    assert json.loads(from_cbor(b"\xd9\xd9\xf7" + cbor2.dumps(value))) == value


def test_bytes_after_a_cbor_value_are_refused() -> None:
    with pytest.raises(BadMessage, match="more follows"):
        from_cbor(b"\x01\x01")


@pytest.mark.parametrize("shared", ["value", "string"])
def test_shared_references_do_not_unfold(shared: str) -> None:
    if shared == "value":  # 2 ** 20 strings in a few bytes
        data = b"\xd8\x1c\x61a"
        for level in range(20):
            data = b"\xd8\x1c\x82" + data + b"\xd8\x1d" + cbor2.dumps(20 - level)
    else:
        data = b"\xd9\x01\x00\x9f\x78\xc8" + b"a" * 200 + b"\xd8\x19\x00" * 9 + b"\xff"
    with pytest.raises(BadMessage) as caught:
        from_cbor(data)
    assert caught.value.code == "bad_json"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_nesting_is_read_up_to_the_limit_and_no_further() -> None:
    assert bytes(well_formed(nested(DEPTH_LIMIT))).decode() == nested(DEPTH_LIMIT)
    for reader in (well_formed, decode):
        with pytest.raises(BadMessage, match=f"deeper than {DEPTH_LIMIT}") as caught:
            reader(nested(DEPTH_LIMIT + 1))
        assert caught.value.code == "bad_json"


def test_deepest_message_survives_being_wrapped_and_transcoded() -> None:
    payload = nested(DEPTH_LIMIT - 1)
    message = decode(f'{{"type":"publish","room":"a","payload":{payload}}}')
    assert isinstance(message, Publish)
    sent = event("a", 1, body("ann", message.payload)).json
    assert cbor2.loads(to_cbor(sent))["payload"] == json.loads(payload)


@fuzz
@given(st.text(alphabet='[{]}"\\a\n', max_size=400))
def test_depth_counts_brackets_outside_strings(text: str) -> None:
    text = "[" * 60 + text + "[" * 60
    depth = deepest = 0
    string = escaped = False
    for char in text:
        if string:
            string = char != '"' or escaped
            escaped = char == "\\" and not escaped
        elif char == '"':
            string, escaped = True, False
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    try:
        decoding._check_shape(text)
    except RecursionError:
        assert deepest > DEPTH_LIMIT
    else:
        assert deepest <= DEPTH_LIMIT


@pytest.mark.timeout(5)
def test_a_string_without_an_end_is_scanned_once() -> None:
    # A search for the end of the string from each escaped quote would take minutes.
    with pytest.raises(BadMessage):
        decode("[" * 120 + '"' + '\\"[' * 200_000)


NOT_READ_BY_ALL = {
    "more digits than Python reads": "9" * 5000,
    "an integer beyond a double": "9" * 309,
    "a negative one": "-" + "9" * 310,
    "a float beyond a double": "1e400",
    "a name twice": '{"a":1,"a":2}',
    "a name twice, once escaped": '{"a":1,"\\u0061":2}',
    "half a surrogate pair": '"\\ud800"',
    "the other half": '{"\\udc00":1}',
    "too deep": "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT,
    "too many numbers": json.dumps([0] * ELEMENTS_LIMIT),
    "too many containers": json.dumps([{}] * ELEMENTS_LIMIT),
}


@pytest.mark.parametrize("payload", NOT_READ_BY_ALL.values(), ids=NOT_READ_BY_ALL)
def test_payload_that_some_decoders_refuse_is_refused(payload: str) -> None:
    text = f'{{"type":"publish","room":"a","payload":{payload},"ref":7}}'
    with pytest.raises(BadMessage) as caught:
        decode(text)
    assert caught.value.code == "bad_json"
    assert caught.value.detail


@pytest.mark.parametrize("number", ["9" * 308, "-1e308", "1e-400", str(2**64), "1.0"])
def test_number_that_a_double_holds_is_carried(number: str) -> None:
    message = decode(f'{{"type":"publish","room":"a","payload":{number}}}')
    assert isinstance(message, Publish)
    assert bytes(message.payload).decode() == number
    assert cbor2.loads(to_cbor(number.encode())) == json.loads(number)


def test_message_refused_by_its_meaning_keeps_its_ref() -> None:
    with pytest.raises(BadMessage) as caught:
        decode('{"type":"publish","room":"a","payload":1e400,"ref":7}')
    assert caught.value.ref == 7
    with pytest.raises(BadMessage) as caught:
        from_cbor(cbor2.dumps({"type": "ping", "at": math.nan, "ref": 7}))
    assert caught.value.ref == 7


def test_commas_and_brackets_in_a_string_are_no_elements() -> None:
    for text in (json.dumps("," * 50_000), json.dumps("[" * 50_000)):
        assert bytes(well_formed(text)).decode() == text


@pytest.mark.parametrize("value", [{}, 0, "", [0]], ids=repr)
def test_elements_are_read_up_to_the_limit_and_no_further(value: Any) -> None:
    most = [value] * (ELEMENTS_LIMIT // (2 if isinstance(value, list | dict) else 1))
    assert json.loads(from_cbor(cbor2.dumps(most))) == most
    well_formed(json.dumps(most))
    with pytest.raises(BadMessage, match=f"{ELEMENTS_LIMIT} elements"):
        well_formed(json.dumps([value] * (ELEMENTS_LIMIT + 1)))
    with pytest.raises(BadMessage, match=f"{ELEMENTS_LIMIT} elements"):
        from_cbor(cbor2.dumps([value] * (2 * ELEMENTS_LIMIT + 1)))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("nul", "bad_json"),
        ("NaN", "bad_json"),
        ("\ufeff{}", "bad_json"),
        ('{"type":"ping"} {}', "bad_json"),
        ('{"type":"ping",}', "bad_json"),
        ("null", "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ('{"type":null}', "bad_message"),
        ('{"type":["ping"]}', "bad_message"),
        ('{"type":"Ping"}', "unknown_type"),
        ('{"type":""}', "unknown_type"),
        ('{"type":"hello"}', "unknown_type"),
        ('{"type":"join","room":"a","room":"b"}', "bad_json"),
        ('{"type":"join"}', "bad_message"),
        ('{"type":"join","room":""}', "bad_message"),
        ('{"type":"join","room":"a b"}', "bad_message"),
        ('{"type":"join","room":"a\\n"}', "bad_message"),
        ('{"type":"join","room":"\u0661"}', "bad_message"),
        ('{"type":"join","room":1}', "bad_message"),
        ('{"type":"join","room":"%s"}' % ("a" * 65), "bad_message"),
        ('{"type":"join","room":"a","after":5}', "bad_message"),
        ('{"type":"join","room":"a","after":{"epoch":"e"}}', "bad_message"),
        ('{"type":"join","room":"a","after":{"epoch":"e","seq":-1}}', "bad_message"),
        ('{"type":"join","room":"a","after":{"epoch":"e","seq":1.5}}', "bad_message"),
        ('{"type":"join","room":"a","after":{"epoch":1,"seq":1}}', "bad_message"),
        (
            '{"type":"join","room":"a","after":{"epoch":"e","seq":9223372036854775808}}',
            "bad_message",
        ),
        ('{"type":"publish","room":"a"}', "bad_message"),
        ('{"type":"publish","room":"a","payload":1,"key":""}', "bad_message"),
        ('{"type":"publish","room":"a","payload":1,"key":5}', "bad_message"),
        ('{"type":"ping","ref":true}', "bad_message"),
        ('{"type":"ping","ref":[1]}', "bad_message"),
        ('{"type":"ping","ref":1e400}', "bad_message"),
        ('{"type":"ping","ref":9223372036854775808}', "bad_message"),
        ('{"type":"ping","ref":"%s"}' % ("r" * 129), "bad_message"),
        ('{"type":"refresh","token":5}', "bad_message"),
        ('{"type":"refresh"}', "bad_message"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_message_is_named_by_its_code(text: str, code: str) -> None:
    assert code_of(text) == code


@pytest.mark.parametrize("room", ["a", "A-Z_0.9:x", "r" * 64, ".", "-"])
def test_room_names_of_the_contract_are_accepted(room: str) -> None:
    assert decode(json.dumps({"type": "join", "room": room})) == Join(room)


@pytest.mark.parametrize("room", ["", "a b", "r" * 65, "é", "a/b"])
@pytest.mark.parametrize("kind", ["join", "leave", "publish"])
def test_bad_room_name_is_explained_in_words(kind: str, room: str) -> None:
    message = {"type": kind, "room": room, "payload": 1}
    with pytest.raises(BadMessage) as caught:
        decode(json.dumps(message))
    assert caught.value.code == "bad_message"
    assert caught.value.detail.startswith("a room's name has 1 to 64")
    assert "\\" not in caught.value.detail


def test_unknown_fields_are_ignored() -> None:
    text = '{"type":"join","room":"a","colour":"red","after":{"epoch":"e","seq":3}}'
    assert decode(text) == Join("a", Cursor("e", 3))


@pytest.mark.parametrize("ref", ["a", 7, 1.5, -(2**63)])
def test_a_bad_message_keeps_its_ref(ref: str | int | float) -> None:
    for fields in ({"type": "nope"}, {"type": "join"}, {"type": 5}, {}):
        with pytest.raises(BadMessage) as caught:
            decode(json.dumps({**fields, "ref": ref}))
        assert caught.value.ref == ref


@pytest.mark.parametrize("text", ["", "[1]", '{"ref":[1]}', '{"ref":true}', "{}", "["])
def test_text_without_a_ref_has_none(text: str) -> None:
    assert ref_of(text) is msgspec.UNSET


def test_gap_names_its_ends_as_the_contract_does() -> None:
    notice = gap("a", 3, 5, "slow")
    assert (notice.first, notice.last) == (3, 5)
    assert json.loads(notice.json) == {
        "type": "gap",
        "room": "a",
        "from": 3,
        "to": 5,
        "reason": "slow",
    }
