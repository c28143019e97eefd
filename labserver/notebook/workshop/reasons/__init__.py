"""Why the best known wrong versions of each part are wrong, by what the checks saw."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labserver.judge.run import Finding
from labserver.notebook.workshop.reasons import (
    admission,
    application,
    backoff,
    broker,
    heartbeat,
    history,
    outbox,
    server,
)
from labserver.notebook.workshop.reasons.reason import Reason

# By part, the most telling first: one mistake may break several checks.
REASONS: dict[str, tuple[Reason, ...]] = {
    "server": server.REASONS,
    "application": application.REASONS,
    "admission": admission.REASONS,
    "heartbeat": heartbeat.REASONS,
    "outbox": outbox.REASONS,
    "history": history.REASONS,
    "backoff": backoff.REASONS,
    "broker": broker.REASONS,
}


def telling(
    place: str, findings: Sequence[Finding], raised: Sequence[str]
) -> tuple[str, str]:
    """Return which check tells why a part is wrong, and why.

    The first is empty where it is what the part raised; both are, if it is not known.
    """
    seen = [(each.check, each.seen) for each in findings if each.outcome == "broken"]
    seen += [("", each) for each in raised]
    for known in REASONS.get(place, ()):
        for check, text in seen:
            if check == known.check and re.search(known.seen, text):
                return check, known.because
    return "", ""


def reason(place: str, findings: Sequence[Finding], raised: Sequence[str]) -> str:
    """Return why a part is wrong, if that is well known; else an empty text."""
    return telling(place, findings, raised)[1]
