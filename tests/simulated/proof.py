"""How soon the simulated world finds each known fault, as a table.

python -m tests.simulated.proof [NAME ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context

from labserver.mistakes import MISTAKES
from labserver.simulated.run import Outcome, run
from labserver.simulated.scenario import Scenario, drawn
from labserver.simulated.shrink import kind, shrink, size
from tests.simulated.wrongs import WRONGS

LIMIT = 60  # seeds
TRIES = 40  # runs to shrink a scenario
# What is found too seldom by chance: kinds of faults at which it is aimed.
AIMED = {
    "nothing-seen": ("deafen_link", "fail_over"),
    "promoted-again": ("fail_back", "stall_replication"),
    "no-catching-up": ("cut_link", "deafen_link"),
    "confirmed-out-of-order": ("cut_link", "part_redis"),
}
# These cost memory or time, and break no promise that a client can see in an order.
UNSEEN = {"subscribe-to-everything", "endless-replay", "ageless"}
TAKEN = [
    each.name
    for each in MISTAKES.values()
    if each.stage in ("broker", "resume") and each.extend and each.name not in UNSEEN
]


def run_wrong(name: str, scenario: Scenario) -> Outcome:
    """Run a scenario on servers with a fault."""
    if name in MISTAKES:
        return run(replace(scenario, mistake=name))
    with WRONGS[name][1]() if name in WRONGS else nullcontext():
        return run(scenario)


def find(name: str, kinds: Sequence[str] = ()) -> tuple[int, Outcome] | None:
    """Return how many seeds it takes, and what the last of them showed."""
    for number in range(LIMIT):
        outcome = run_wrong(name, drawn(str(number), kinds=kinds))
        if outcome.broken:
            return number + 1, outcome
    return None


def prove(name: str) -> str:
    """Return a line of the table."""
    aimed = AIMED.get(name, ())
    found = find(name, aimed)
    if found is None:
        return f"| {name} | not in {LIMIT} | | |"
    seeds, outcome = found
    how = f"{seeds}, aimed by {' and '.join(aimed)}" if aimed else seeds
    small = shrink(outcome, lambda scenario: run_wrong(name, scenario), TRIES)
    return f"| {name} | {how} | {kind(small.broken)} | {size(small.scenario)} |"


def main(names: list[str]) -> None:
    print("| fault | seeds until found | found by | after shrinking |")
    print("|---|---|---|---|")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        running = [pool.submit(prove, name) for name in names]
        for each in as_completed(running):
            print(each.result(), flush=True)


if __name__ == "__main__":
    every = [*WRONGS, *TAKEN]
    if unknown := [name for name in sys.argv[1:] if name not in every]:
        print(f"proof: no fault is named {unknown[0]!r}: {', '.join(every)}")
        sys.exit(2)
    main(sys.argv[1:] or every)
