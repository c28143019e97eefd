"""Chapter 13: who came and who left, when one person may have two connections."""

from __future__ import annotations

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Roster = dict[str, str]
News = tuple[list[str], list[str]]


def by_connection(told: Roster, now: Roster) -> News:
    came = sorted(now[each] for each in now.keys() - told.keys())
    left = sorted(told[each] for each in told.keys() - now.keys())
    return came, left


def ids(told: Roster, now: Roster) -> News:
    return sorted(now.keys() - told.keys()), sorted(told.keys() - now.keys())


def each_connection_once(told: Roster, now: Roster) -> News:
    came, left = by_connection(told, now)
    return sorted(set(came)), sorted(set(left))


def once_for_each_tab(told: Roster, now: Roster) -> News:
    before, after = set(told.values()), set(now.values())
    came = sorted(user for user in now.values() if user not in before)
    left = sorted(user for user in told.values() if user not in after)
    return came, left


def turned_round(told: Roster, now: Roster) -> News:
    before, after = set(told.values()), set(now.values())
    return sorted(before - after), sorted(after - before)


def everybody(told: Roster, now: Roster) -> News:
    before, after = set(told.values()), set(now.values())
    return sorted(after), sorted(before - after)


def second_tab_comes(told: Roster, now: Roster) -> News:
    came = sorted({now[each] for each in now.keys() - told.keys()})
    return came, sorted(set(told.values()) - set(now.values()))


def first_tab_leaves(told: Roster, now: Roster) -> News:
    left = sorted({told[each] for each in told.keys() - now.keys()})
    return sorted(set(now.values()) - set(told.values())), left


EXERCISE = Exercise(
    name="news",
    cases=(
        Case(({"c1": "ann"}, {"c1": "ann", "c2": "bob"}), (["bob"], [])),
        Case(({"c1": "ann", "c2": "bob"}, {"c1": "ann"}), ([], ["bob"])),
        Case(({"c1": "ann"}, {"c1": "ann", "c2": "ann"}), ([], [])),
        Case(({"c1": "ann", "c2": "ann"}, {"c2": "ann"}), ([], [])),
        Case(({"c1": "ann", "c2": "bob"}, {"c1": "ann", "c3": "bob"}), ([], [])),
        Case(
            ({"c1": "ann", "c2": "ann"}, {"c3": "bob", "c4": "bob"}), (["bob"], ["ann"])
        ),
        Case(({}, {"c1": "eve", "c2": "bob"}), (["bob", "eve"], [])),
    ),
    mistakes=(
        Mistake(
            by_connection,
            "these are connections that came and ended. Bob, who reloads his page, "
            "would be gone and back, and Ann would leave with her first tab.",
        ),
        Mistake(
            each_connection_once,
            "nobody is named twice now, but these are still connections: Bob, who "
            "reloads his page, has another one, and was never away.",
        ),
        Mistake(
            ids,
            "an id is of a connection. The screen shows users, which are the values.",
        ),
        Mistake(
            once_for_each_tab,
            "the right people, but one with two tabs is named twice. "
            "A set has each of them once.",
        ),
        Mistake(
            turned_round,
            "the two lists have changed places: who came is in `now`, not in `told`.",
        ),
        Mistake(everybody, "the first list has only those who were not there before."),
        Mistake(
            second_tab_comes,
            "who left is right. But Ann's second tab brings nobody: she was there.",
        ),
        Mistake(
            first_tab_leaves,
            "who came is right. But Ann, who closes one of two tabs, is still there.",
        ),
    ),
    look_at="`change` in `labserver/server/presence.py`, which compares connections: "
    "this step is left to the client.",
    praise="A reload and a second tab are no news of a person.",
)
