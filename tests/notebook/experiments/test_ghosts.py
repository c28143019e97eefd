"""What a chapter says of presence follows from what members were told."""

from __future__ import annotations

from typing import Any

from labserver.notebook.experiments.presence import roster

ANN, BOB = {"id": "c1", "user": "ann"}, {"id": "c2", "user": "bob"}


def present(*clients: dict[str, str]) -> dict[str, Any]:
    return {"type": "present", "count": len(clients), "clients": list(clients)}


def changed(joined: list[Any], left: list[Any]) -> dict[str, Any]:
    return {"type": "presence", "joined": joined, "left": left}


def test_roster_follows_lists_and_changes() -> None:
    assert roster([]) == {}
    assert roster([present(ANN)]) == {"c1": "ann"}
    assert roster([present(ANN), changed([BOB], [])]) == {"c1": "ann", "c2": "bob"}
    assert roster([present(ANN), changed([BOB], [ANN])]) == {"c2": "bob"}
    assert roster([present(ANN), present(BOB)]) == {"c2": "bob"}


def test_roster_is_empty_while_only_a_number_is_told() -> None:
    number = {"type": "presence", "count": 101}
    assert roster([present(ANN), number]) == {}
    assert roster([present(ANN), number, present(ANN, BOB)]) == {
        "c1": "ann",
        "c2": "bob",
    }


def test_roster_ignores_messages_of_the_room() -> None:
    assert roster([present(ANN), {"type": "message", "payload": 1}]) == {"c1": "ann"}
