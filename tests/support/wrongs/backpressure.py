"""Wrong solutions of chapter 5, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

WRONGS: tuple[Wrong, ...] = (
    Wrong("no limit", "what waits has no limit", (("if fits and", "if True or"),)),
    Wrong(
        "the transport is asked once",
        "what the transport holds",
        (
            (
                "self.size + self.transport.get_write_buffer_size()",
                'self.size + getattr(self, "held", 0)',
            ),
            (
                "self.taken = self.connection.taken()",
                "self.taken = self.connection.taken()\n"
                "        self.held = self.transport.get_write_buffer_size()",
            ),
            ("self.timer.cancel()", "self.timer.cancel()\n        self.held = 0"),
        ),
    ),
    Wrong("no deadline", "a reader that takes no byte", (("cut(TOO_SLOW)", "loop"),)),
    Wrong(
        "no look at progress",
        "a reader that is slow, and reads",
        (("self.connection.taken() > self.taken", "False"),),
        before=True,
    ),
    Wrong(
        "one look at progress",
        "a reader that once took something",
        (
            (
                "            self.paused()\n        else",
                "            pass\n        else",
            ),
        ),
    ),
    Wrong(
        "taken is remembered",
        "a reader that once took something",
        (
            (
                "self.taken = self.connection.taken()",
                'self.taken = getattr(self, "taken", self.connection.taken())',
            ),
        ),
    ),
    Wrong(
        "answers under the limit",
        "the limit was applied to answers",
        (
            ("self.size > 2 * self.limit", "self.waiting() > self.limit - 200"),
            ("self.connection.end(TOO_SLOW)", "pass"),
        ),
    ),
    Wrong(
        "a notice that overtakes",
        "something overtook",
        (("self.hold(notice(", "self.transport.write(notice("),),
    ),
    Wrong(
        "the last loss only",
        "the notice covers less",
        (("room, first, last))", "room, last, last))"),),
    ),
    Wrong("not counted", "nothing was counted", (("drops += 1", "drops += 0"),)),
    Wrong(
        "the policy disconnect",
        "nothing was counted",
        (("self.metrics.drops += 1", "self.connection.end(TOO_SLOW)"),),
    ),
    Wrong(
        "what waits stays",
        "the reader reads again",
        (("while self.queue and", "while False and"),),
    ),
    Wrong(
        "a loss without a word",
        "a loss without a word",
        (("self.hold(notice(self.connection, room, first, last))", "pass"),),
    ),
    Wrong(
        "no notice when it reads again",
        "a loss without a word",
        (("self.timer.cancel()\n        self.tell()", "self.timer.cancel()"),),
    ),
    Wrong(
        "a notice after the answer",
        "a loss without a word",
        (
            (
                "            self.tell()\n            self.hold",
                "            self.hold",
            ),
        ),
    ),
)
