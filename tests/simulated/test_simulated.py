"""The simulated world: what it does is decided by its seed, and by nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labserver.simulated.run import run
from labserver.simulated.scenario import drawn, from_json
from labserver.simulated.shrink import kind, shrink

# Scenarios that failed before an error was mended.
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))

TRACED = """
import sys
from labserver.simulated.run import run
from labserver.simulated.scenario import drawn
sys.stdout.write(run(drawn(sys.argv[1], clients=4)).trace)
sys.stdout.write(run(drawn(sys.argv[1], clients=3, cluster=True)).trace)
"""


@pytest.mark.parametrize("seed", ["16"])
def test_same_seed_gives_the_same_trace_in_two_processes(seed: str) -> None:
    traces = [
        subprocess.run(
            [sys.executable, "-c", TRACED, seed],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
            timeout=25,
        ).stdout
        for salt in ("1", "2")
    ]
    assert len(traces[0]) > 10_000
    assert traces[0] == traces[1]


def test_scenario_can_be_written_and_read() -> None:
    scenario = drawn("3")
    assert scenario.faults
    assert from_json(scenario.to_json()) == scenario


@pytest.mark.parametrize("seed", ["2", "5", "11"])
def test_promises_are_kept_under_the_faults_of_a_seed(seed: str) -> None:
    outcome = run(drawn(seed, clients=5))
    assert not outcome.broken
    assert outcome.counts["acknowledged"]


def test_promises_are_kept_on_a_cluster_that_takes_over_and_moves_slots() -> None:
    kinds = "fail_over", "move_slot", "part_node"
    outcome = run(drawn("1", clients=4, cluster=True, kinds=kinds))
    assert not outcome.broken
    assert outcome.met["cluster: a takeover, some writes lost"]
    assert outcome.met["move_slot: moved"]


def test_acknowledged_message_is_gone_only_without_confirmations() -> None:
    """Whoever was there is told. The audit looks."""
    scenario = drawn("3", clients=5, confirm=True, pause=0.5)
    gone = "acknowledged messages that are gone"
    confirmed = run(scenario)
    assert not confirmed.broken and not confirmed.met[gone]
    assert confirmed.met["WAIT: confirmed"]
    trusting = run(replace(scenario, confirm=False))
    assert not trusting.broken and trusting.met[gone]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_is_mended(path: Path) -> None:
    assert not run(from_json(path.read_bytes())).broken


def test_shrunk_world_still_fails_in_the_same_way() -> None:
    scenario = drawn("0", "own-message-twice", clients=3, rooms=1)
    failed = run(scenario)
    small = shrink(failed, tries=8)
    assert kind(small.broken) == kind(failed.broken) != ""
    assert len(small.scenario.faults) < len(scenario.faults)
