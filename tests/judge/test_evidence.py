"""What a check saw is said in few words, and nothing of weight is left out."""

from __future__ import annotations

import re

from labserver.judge.evidence import JUDGE, TEXT_LIMIT, Event, Evidence, folded, shown
from labserver.judge.page import diagram
from labserver.judge.raw import CLOSE, _shown
from labserver.judge.run import Finding


def test_text_that_is_cut_says_so_and_an_empty_one_is_seen() -> None:
    evidence = Evidence()
    evidence.add("ann", "sent", "")
    evidence.add("ann", "sent", "ab " * TEXT_LIMIT)
    evidence.add("ann", "received", '{"pad":"' + "x" * 60_000 + '"}')
    empty, cut, padded = (event.text for event in evidence.events)
    assert empty == '""'
    assert cut.endswith("…") and len(cut) <= TEXT_LIMIT
    assert padded == '{"pad":"xxx…'


def test_close_is_its_code_and_its_reason() -> None:
    assert _shown(CLOSE, b"\x118heartbeat lost") == "close 4408 heartbeat lost"


def test_missing_answer_and_last_message_are_named() -> None:
    evidence = Evidence()
    evidence.add("ann", "sent", '{"type":"join","room":"red","ref":"q"}')
    evidence.add("ann", "received", '{"type":"joined","room":"red","ref":"q"}')
    evidence.add("ann", "sent", '{"type":"publish","room":"red","ref":7}')
    evidence.add("bob", "received", '{"type":"message","seq":1}')
    assert evidence.instead() == (
        "no answer to publish of ann with ref 7; the last that came, to bob: "
        '{"type":"message","seq":1}'
    )
    assert Evidence().instead() == "nothing came at all"


def test_repeats_are_one_row_and_the_accused_is_never_left_out() -> None:
    evidence = Evidence()
    evidence.add("slow", "did", "stopped reading")
    evidence.add("slow", "received", "ping b''")
    for number in range(500):
        who = f"h{number % 3}"
        evidence.add(who, "received", f'{{"type":"message","seq":{number}}}')
    rows = folded(evidence.events)
    assert [count for _, count in rows] == [1, 1, 167, 167, 166]
    kept = [event.text for event, _ in shown(evidence.events, "slow was not ended", 3)]
    assert kept[:2] == ["stopped reading", "ping b''"]
    assert len(kept) == 3


def test_diagram_marks_faults_across_all_lanes_and_cuts_its_last_line() -> None:
    events = (
        Event(0.0, "ann", "opened", "a connection"),
        Event(0.1, JUDGE, "did", "cut the servers' connections to Redis"),
        Event(0.2, "ann", "received", '{"type":"message","seq":1}'),
        Event(0.3, "ann", "did", "stopped reading"),
    )
    finding = Finding(
        "broker", "a_check", "Says.", "broken", "x" * 500, 0.4, events=events
    )
    drawn = diagram(finding)
    assert '<line class="fault"' in drawn and "connections to Redis" in drawn
    assert drawn.count('<line class="lane"') == 2  # the server and ann: no judge
    assert '<circle class="opened"' in drawn and '<circle class="did"' in drawn
    assert re.search(r'<text class="end"[^>]*>0\.400 s: x+…</text>', drawn)
