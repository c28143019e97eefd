"""What a Redis Cluster loses while primaries fail, with and without confirmations.

python -m tests.simulated.confirmed [SEEDS]

No slot moves in these worlds: MIGRATE waits for no replica, so confirmations do not
cover keys that are on their way while a primary dies.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from labserver.simulated.run import run
from labserver.simulated.scenario import drawn

GONE = "acknowledged messages that are gone"


def both(seed: str) -> list[Counter[str]]:
    """Return what one world showed with confirmations, and without them."""
    return [shown(seed, True), shown(seed, False)]


def shown(seed: str, confirm: bool) -> Counter[str]:
    scenario = drawn(seed, cluster=True, confirm=True)
    faults = tuple(each for each in scenario.faults if each.name != "move_slot")
    outcome = run(replace(scenario, faults=faults, confirm=confirm))
    found = Counter(worlds=1, acknowledged=outcome.counts["acknowledged"])
    for met, count in outcome.met.items():
        found["takeovers"] += count * met.startswith("cluster: a takeover")
        found["gone"] += count * (met == GONE)
    found["worlds that lost"] += found["gone"] > 0
    found["promises broken"] += bool(outcome.broken)
    for sentence in outcome.broken:
        print(f"seed {seed}, confirm {confirm}: {sentence}", file=sys.stderr)
    return found


def main(seeds: int) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        pairs = list(pool.map(both, map(str, range(seeds))))
    for number, how in enumerate(("confirmed", "not confirmed")):
        total = sum((pair[number] for pair in pairs), Counter[str]())
        print(how, ", ".join(f"{total[name]:,} {name}" for name in NAMES), sep=": ")


NAMES = (
    *("worlds", "takeovers", "acknowledged", "gone"),
    *("worlds that lost", "promises broken"),
)

if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100)
