"""Chapter 9: judge a run."""

from __future__ import annotations

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake


def by_latency(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    return "valid" if delivered and p99 < 100 else "failed"


def what_arrived(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if not delivered:
        return "nothing"
    return "invalid" if cpu > 0.8 or own > p99 / 2 else "valid"


def generator_first(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if not delivered:
        return "nothing"
    if cpu > 0.8 or own > p99 / 2:
        return "invalid"
    return "failed" if delivered != expected else "valid"


def silence_is_fine(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if delivered != expected:
        return "failed"
    return "invalid" if cpu > 0.8 or own > p99 / 2 else "valid"


def failed_first(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if delivered != expected:
        return "failed"
    if not delivered:
        return "nothing"
    return "invalid" if cpu > 0.8 or own > p99 / 2 else "valid"


def invalid_first(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if cpu > 0.8 or own > p99 / 2:
        return "invalid"
    if not delivered:
        return "nothing"
    return "failed" if delivered != expected else "valid"


def from_cpu_limit(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if not delivered:
        return "nothing"
    if delivered != expected:
        return "failed"
    return "invalid" if cpu >= 0.8 or own > p99 / 2 else "valid"


def from_half_p99(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if not delivered:
        return "nothing"
    if delivered != expected:
        return "failed"
    return "invalid" if cpu > 0.8 or own >= p99 / 2 else "valid"


def cpu_only(expected: int, delivered: int, p99: float, own: float, cpu: float) -> str:
    if not delivered:
        return "nothing"
    if delivered != expected:
        return "failed"
    return "invalid" if cpu > 0.8 else "valid"


def losses_only(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if not delivered:
        return "nothing"
    if delivered < expected:
        return "failed"
    return "invalid" if cpu > 0.8 or own > p99 / 2 else "valid"


EXERCISE = Exercise(
    name="judge",
    cases=(
        Case((20_000, 20_000, 4.0, 0.5, 0.3), "valid"),
        Case((20_000, 19_999, 3.0, 0.5, 0.3), "failed"),
        Case((20_000, 20_001, 3.0, 0.5, 0.3), "failed"),
        Case((20_000, 20_000, 9.0, 7.0, 0.4), "invalid"),
        Case((20_000, 20_000, 9.0, 0.5, 0.97), "invalid"),
        Case((20_000, 11_000, 9.0, 8.0, 0.97), "failed"),
        Case((20_000, 0, 0.0, 0.5, 0.1), "nothing"),
        Case((0, 0, 0.0, 0.0, 0.0), "nothing"),
        Case((20_000, 20_000, 900.0, 2.0, 0.3), "valid"),
        Case((20_000, 20_000, 4.0, 0.5, 0.8), "valid"),
        Case((20_000, 20_000, 4.0, 2.0, 0.3), "valid"),
    ),
    mistakes=(
        Mistake(
            by_latency,
            "a slow server is a result, not a failure: a p99 of 900 ms is valid if it "
            "was measured well. And a fast server that lost a message has failed.",
        ),
        Mistake(
            what_arrived,
            "percentiles only count messages that arrived. Compare `delivered` with "
            "`expected` before you look at a percentile.",
        ),
        Mistake(
            generator_first,
            "a busy generator makes times wrong, but it does not lose messages. Look "
            "at completeness first.",
        ),
        Mistake(
            silence_is_fine,
            "a run in which nothing was sent or nothing arrived proves nothing: Locust "
            "itself exits with 0 after zero requests.",
        ),
        Mistake(
            failed_first,
            "where nothing arrived, `delivered` differs from `expected` as well: the "
            "order decides. Ask first whether anything was delivered.",
        ),
        Mistake(
            invalid_first,
            "the generator comes last: it makes times wrong, but it does not lose "
            "messages. A run without messages has no times at all.",
        ),
        Mistake(
            from_cpu_limit,
            "exactly 0.8 of a core is still valid: the text says more than.",
        ),
        Mistake(
            from_half_p99,
            "a delay of exactly half the p99 is still valid: the text says more than.",
        ),
        Mistake(
            cpu_only,
            "a generator with a free core may still be late: a pause, or one long "
            "callback. Its own delay shows that.",
        ),
        Mistake(
            losses_only,
            "one message too many is a failure, too: it was delivered twice.",
        ),
    ),
    look_at="`judge` and `invalid_reasons` in `labserver/load/figures/verdict.py`.",
    praise="The exit status of the load tests is the same: 1 failed, 3 nothing, "
    "4 invalid.",
)
