"""What chapter 9 prints of a run of the six scenarios."""

from __future__ import annotations

from labserver.notebook.experiments.load import ASKED, FOLDER, shortened

SUMMARY = """\
churn
  visitors                      12 of 12 delivered, lost 0
  handshake                     p50   2.91 ms   p99     14 ms
                                by design: 1x cut off

replicas
  other replica                 p50   0.98 ms   p99   1.79 ms   from due
  cycles                        10

generator
  sent late by                  p50   0.00 ms   p99   0.24 ms

verdict  VALID: everything arrived (exit 0)"""


def test_summary_is_shortened_to_what_is_asked_and_keeps_its_verdict() -> None:
    assert shortened(SUMMARY).splitlines() == [
        "churn",
        "  handshake                     p50   2.91 ms   p99     14 ms",
        "replicas",
        "  other replica                 p50   0.98 ms   p99   1.79 ms   from due",
        "generator",
        "  sent late by                  p50   0.00 ms   p99   0.24 ms",
        "verdict  VALID: everything arrived (exit 0)",
    ]


def test_every_scenario_is_asked_for_something() -> None:
    scenarios = {path.stem for path in FOLDER.glob("[a-z]*.py")}
    assert scenarios <= ASKED.keys()
