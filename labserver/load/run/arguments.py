"""Options that load tests add to Locust's command line."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

from locust import events

from labserver.load.dialects import SHIPPED
from labserver.load.figures.verdict import LAG_LIMIT
from labserver.load.run.hooks import listens

USERS_LIMIT = 5000
TIME_LIMIT = 3600  # seconds


def number(kind: type, least: float, most: float) -> Callable[[str], Any]:
    """Return an argument type: a number between two bounds."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = most + 1
        if not least <= value <= most:
            what = "whole number" if kind is int else "number"
            raise ArgumentTypeError(
                f"must be a {what} from {least:g} to {most:g}, not {text!r}"
            )
        return value

    return parse


publish_rate = number(float, 0.1, 900)  # the server lets through 1000 a second
payload_bytes = number(int, 120, 60_000)  # a message to the server has at most 64 KiB


FAULTS = ("none", "kill-replica", "pause-redis")


def step(text: str) -> tuple[int, float]:
    """Return users and seconds of a step; an argument type."""
    users, _, seconds = text.partition(":")
    return number(int, 1, USERS_LIMIT)(users), number(float, 1, TIME_LIMIT)(seconds)


@listens(events.init_command_line_parser)
def add_options(parser: Any, **_: Any) -> None:
    parser.add_argument(
        "--publish-rate",
        type=publish_rate,
        default=20.0,
        metavar="N",
        help="Messages a second that each publisher sends, on a fixed schedule. "
        "Default 20.",
    )
    parser.add_argument(
        "--payload-bytes",
        type=payload_bytes,
        default=150,
        metavar="N",
        help="Size of a payload; for slow readers at least 32768. Default 150.",
    )
    parser.add_argument(
        "--replicas",
        default="",
        metavar="URL,URL",
        help="Servers of one cluster, for the scenario replicas. Default: --host.",
    )
    parser.add_argument(
        "--dialect",
        default="lab",
        metavar="NAME",
        include_in_web_ui=False,
        help="How the server is spoken to: " + ", ".join(SHIPPED) + ", or "
        "file.py:Class. Default: lab.",
    )
    parser.add_argument(
        "--scenario",
        default="",
        metavar="NAME,NAME",
        include_in_web_ui=False,
        help="Run only these scenarios (also for each worker): fanout, "
        "slow_readers, replicas, reconnect_storm, idle, churn. Default: all at once.",
    )
    parser.add_argument(
        "--fault",
        choices=FAULTS,
        default="none",
        include_in_web_ui=False,
        help="Half-way, kill the last server or pause Redis for 2 seconds. It needs "
        "servers that belong to the test: python -m loadtests.",
    )
    parser.add_argument(
        "--steps",
        type=step,
        default=None,
        metavar="USERS:SECONDS",
        include_in_web_ui=False,
        help="Add USERS every SECONDS, up to -u, instead of -r.",
    )
    parser.add_argument(
        "--shape",
        default="",
        metavar="FILE.csv",
        include_in_web_ui=False,
        help="A table with the columns seconds,users,rate: from then on so many users, "
        "started or stopped at this rate a second, instead of -u and -r. The run ends "
        "at its last line, or after -t.",
    )
    parser.add_argument(
        "--require",
        action="append",
        default=None,
        metavar="'p99<100ms'",
        include_in_web_ui=False,
        help="Fail a run that does not meet this; may be repeated. Figures: p50, p95, "
        "p99, max, all.p99 (until everybody has it; us, ms, s), delivered (%%), lost, "
        "duplicated, reordered, announced, unanswered. 'fanout:p99<100ms' is about one "
        "scenario.",
    )
    parser.add_argument(
        "--lag-limit",
        type=number(float, 0, 60_000),
        default=LAG_LIMIT,
        metavar="MS",
        include_in_web_ui=False,
        help="Milliseconds of the p50 or p99 that may be the generator's own. If they "
        "are more, and more than half of it, the run is invalid. "
        f"Default {LAG_LIMIT:g}.",
    )
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        include_in_web_ui=False,
        help="Write figures only: drawing takes seconds.",
    )
    parser.add_argument(
        "--results",
        default="results",
        metavar="FOLDER",
        include_in_web_ui=False,  # visitors of the page must not choose a folder
        help="Folder in which each run makes a folder. Default: results.",
    )
