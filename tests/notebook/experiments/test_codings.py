"""Members of each form agree on what they ask for, and read what a room shares."""

from __future__ import annotations

import pytest

from labserver.notebook import growth, running
from labserver.notebook.experiments.codings import FORMS, members

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("form", FORMS)
async def test_server_agrees_to_what_the_members_of_a_form_ask_for(form: str) -> None:
    async with running("rooms") as server, members(server, 3, FORMS[form]) as there:
        assert [each.agreed for each in there] == [FORMS[form]] * 3


async def test_growth_has_a_cost_for_each_server_and_size() -> None:
    servers = {"plain": {"form": "JSON"}, "packed": {"form": "CBOR, deflate"}}
    lines = await growth(servers, sizes=(1, 60))
    assert list(lines) == ["plain", "packed"]
    for line in lines.values():
        assert line.members == [1, 60]
        assert 0 < line.taken[0] < line.taken[1]  # the more members, the more work
