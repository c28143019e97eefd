"""Each connection that departs is counted, and logged if the server decided that."""

from __future__ import annotations

import logging

from labserver.contract import closing
from labserver.contract.closing import DRAINING, NORMAL
from labserver.server.connection import LabConnection
from labserver.server.metrics import OTHER, SERVER, Metrics

log = logging.getLogger("labserver")


def note_end(connection: LabConnection, metrics: Metrics) -> None:
    """Count the end of a connection by its code, and log it."""
    ending, said = connection.ending, connection.protocol.close_sent
    code = ending.code if ending else connection.close_code
    if ending is None and connection.closed_by is SERVER and said is not None:
        code = said.code  # the library's, such as 1009
    # A client chooses its code: only standard codes get a label of their own.
    known = code is None or code in closing.CLOSES or 1000 <= code <= 1015
    label = (code or 1006) if known else OTHER
    metrics.closes[label, connection.closed_by] += 1
    decided = ending is not None and code not in (NORMAL.code, DRAINING.code)
    level = logging.INFO if decided else logging.DEBUG
    if log.isEnabledFor(level):
        fields = {
            **about(connection),
            "code": code or 1006,
            # A client's reason is not logged: it may be any text.
            "reason": ending.reason if ending else None,
        }
        log.log(level, "connection ended", extra=fields)


def about(connection: LabConnection) -> dict[str, object]:
    """Return the fields of a log line about a connection."""
    return {
        "connection": connection.name,
        "user": connection.identity.user,
        "address": connection.address,
    }
