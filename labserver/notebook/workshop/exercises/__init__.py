"""The exercises of the chapters: cases, and known wrong answers with the reason."""

from __future__ import annotations

from labserver.notebook.workshop.exercises.alternatives import EXERCISE as TO_REPLAY
from labserver.notebook.workshop.exercises.auth import EXERCISE as MAY_CONNECT
from labserver.notebook.workshop.exercises.backpressure import EXERCISE as DROP_OLDEST
from labserver.notebook.workshop.exercises.broker import EXERCISE as HOLES
from labserver.notebook.workshop.exercises.codings import EXERCISE as SHARING
from labserver.notebook.workshop.exercises.echo import EXERCISE as ACCEPT_KEY
from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake
from labserver.notebook.workshop.exercises.heartbeat import EXERCISE as DEAD
from labserver.notebook.workshop.exercises.load import EXERCISE as JUDGE
from labserver.notebook.workshop.exercises.own import EXERCISE as ERROR_FOR
from labserver.notebook.workshop.exercises.presence import EXERCISE as NEWS
from labserver.notebook.workshop.exercises.resume import EXERCISE as DELAY
from labserver.notebook.workshop.exercises.rooms import EXERCISE as FORGET
from labserver.notebook.workshop.exercises.sizing import EXERCISE as REPLICAS
from labserver.notebook.workshop.exercises.start import EXERCISE as FIRST_WORDS

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
