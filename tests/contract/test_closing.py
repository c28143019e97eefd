"""Close codes as data: what each code tells a client."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close as CloseFrame

from labserver.contract.closing import (
    CLOSES,
    DRAINING,
    RATE_LIMITED,
    Return,
    after_status,
    comes_back,
    draining,
    retry_after,
)

CONTRACT = {
    1001: Return.SOON,
    1003: Return.NEVER,
    1007: Return.NEVER,
    1009: Return.NEVER,
    1013: Return.LATER,
    4401: Return.NEW_TOKEN,
    4403: Return.NEVER,
    4408: Return.SOON,
    4409: Return.SOON,
    4429: Return.LATER,
}


@pytest.mark.parametrize("code", CONTRACT)
def test_code_means_what_the_contract_says(code: int) -> None:
    assert CLOSES[code].comes_back is CONTRACT[code]
    assert comes_back(code) is CONTRACT[code]


@pytest.mark.parametrize("close", CLOSES.values(), ids=lambda close: close.code)
def test_close_fits_a_close_frame(close) -> None:
    CloseFrame(close.code, close.reason).check()
    assert 0 < len(close.reason.encode()) <= 123


@pytest.mark.parametrize("code", [None, 1006, 1005, 1011, 1012, 3000])
def test_client_comes_back_when_nobody_decided_against_it(code: int | None) -> None:
    assert comes_back(code) in (Return.SOON, Return.LATER)


@pytest.mark.parametrize("code", [4000, 4400, 4499, 4999])
def test_client_stays_away_from_a_refusal_it_cannot_read(code: int) -> None:
    assert comes_back(code) is Return.NEVER


def test_status_tells_whether_a_refusal_passes() -> None:
    passing = {s for s in range(100, 1000) if after_status(s) is Return.SOON}
    assert passing == {408, 425, 429, *range(500, 600)}
    assert after_status(401) is Return.NEW_TOKEN
    assert after_status(403) is Return.NEVER


@pytest.mark.parametrize("seconds", [0.0, 0.001, 1.5, 27.0])
def test_draining_says_when_to_return(seconds: float) -> None:
    close = draining(seconds)
    assert close.code == DRAINING.code == 1001
    assert retry_after(close.reason) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "reason",
    ["", "draining", "retry_after_ms", "retry_after_ms=", "retry_after_ms=-5"]
    + ["retry_after_ms=1e3", "retry_after_ms=\u0663", "retry_after_ms=\u00b2"],
)
def test_reason_without_a_number_asks_for_nothing(reason: str) -> None:
    assert retry_after(reason) is None


def test_no_reason_sends_a_client_away_for_more_than_an_hour() -> None:
    assert retry_after("retry_after_ms=" + "9" * 100) == 3600.0


@settings(deadline=None, database=None, derandomize=True)
@given(st.text())
def test_any_reason_can_be_read(reason: str) -> None:
    seconds = retry_after(reason)
    assert seconds is None or 0.0 <= seconds <= 3600.0


def test_because_changes_the_reason_only() -> None:
    close = RATE_LIMITED.because("too many pings")
    assert (close.code, close.comes_back) == (4429, Return.LATER)
    assert close.reason == "too many pings"
    assert RATE_LIMITED.reason == "rate limited"
