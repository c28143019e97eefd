"""Wrong solutions of the parts that chapters ask for, by chapter."""

from __future__ import annotations

from tests.support.wrongs import (
    auth,
    backpressure,
    broker,
    echo,
    heartbeat,
    resume,
    rooms,
)
from tests.support.wrongs.wrong import Wrong

WRONGS: dict[str, tuple[Wrong, ...]] = {
    "01_echo": echo.WRONGS,
    "02_auth": auth.WRONGS,
    "03_rooms": rooms.WRONGS,
    "04_heartbeat": heartbeat.WRONGS,
    "05_backpressure": backpressure.WRONGS,
    "06_broker": broker.WRONGS,
    "07_resume": resume.WRONGS,
}
