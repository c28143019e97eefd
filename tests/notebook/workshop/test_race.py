"""A race of chapter 7 is found by its seed, drawn, and gone after it is mended."""

from __future__ import annotations

from typing import Any

import pytest

from labserver.notebook.workshop import race
from labserver.notebook.workshop.race import worlds

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


async def read_first(subscribe: Any, read: Any, enter: Any) -> None:
    position = await read()
    await subscribe()
    enter(position)


async def subscribed_first(subscribe: Any, read: Any, enter: Any) -> None:
    await subscribe()
    enter(await read())


async def test_race_is_found_drawn_and_mended() -> None:
    broken = await worlds(read_first)
    assert "unsignalled" in broken.seen
    assert "never gets" in broken.picture
    mended = await worlds(subscribed_first, broken)
    assert not mended.seen and mended.tried > broken.tried


async def test_function_that_goes_on_and_on_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def goes_on(subscribe: Any, read: Any, enter: Any) -> None:
        while True:
            pass

    monkeypatch.setattr(race, "TIMEOUT", 0.5)
    with pytest.raises(RuntimeError, match="did not end within 0.5 s"):
        await worlds(goes_on)
