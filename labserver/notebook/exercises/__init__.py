"""The exercises of the chapters: cases, and known wrong answers with the reason."""

from __future__ import annotations

from labserver.notebook.exercises.alternatives import EXERCISE as TO_REPLAY
from labserver.notebook.exercises.auth import EXERCISE as MAY_CONNECT
from labserver.notebook.exercises.backpressure import EXERCISE as DROP_OLDEST
from labserver.notebook.exercises.broker import EXERCISE as HOLES
from labserver.notebook.exercises.codings import EXERCISE as SHARING
from labserver.notebook.exercises.echo import EXERCISE as ACCEPT_KEY
from labserver.notebook.exercises.exercise import Case, Exercise, Mistake
from labserver.notebook.exercises.heartbeat import EXERCISE as DEAD
from labserver.notebook.exercises.load import EXERCISE as JUDGE
from labserver.notebook.exercises.own import EXERCISE as ERROR_FOR
from labserver.notebook.exercises.presence import EXERCISE as NEWS
from labserver.notebook.exercises.resume import EXERCISE as DELAY
from labserver.notebook.exercises.rooms import EXERCISE as FORGET
from labserver.notebook.exercises.sizing import EXERCISE as REPLICAS
from labserver.notebook.exercises.start import EXERCISE as FIRST_WORDS

ALL = (
    FIRST_WORDS,
    ACCEPT_KEY,
    MAY_CONNECT,
    FORGET,
    DEAD,
    DROP_OLDEST,
    HOLES,
    DELAY,
    TO_REPLAY,
    JUDGE,
    REPLICAS,
    ERROR_FOR,
    SHARING,
    NEWS,
)
EXERCISES = {each.name: each for each in ALL}

__all__ = ["EXERCISES", "Case", "Exercise", "Mistake"]
