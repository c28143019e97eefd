"""Chapter 2: let only pages of the same host connect."""

from __future__ import annotations

from urllib.parse import urlsplit

from labserver.notebook.exercises.exercise import Case, Exercise, Mistake


def starts_with(origin: str | None, host: str) -> bool:
    return origin is None or origin.startswith(("https://" + host, "http://" + host))


def ends_with(origin: str | None, host: str) -> bool:
    return origin is None or origin.endswith(host)


def contains(origin: str | None, host: str) -> bool:
    return origin is None or host in origin


def without_port(origin: str | None, host: str) -> bool:
    return origin is None or urlsplit(origin).hostname == host.partition(":")[0]


def refuses_everyone_else(origin: str | None, host: str) -> bool:
    return origin is not None and urlsplit(origin).netloc == host


def only_https(origin: str | None, host: str) -> bool:
    return origin is None or origin == "https://" + host


EXERCISE = Exercise(
    name="may_connect",
    cases=(
        Case(("https://lab.example", "lab.example"), True),
        Case(("http://127.0.0.1:8080", "127.0.0.1:8080"), True),
        Case(("https://lab.example.evil.test", "lab.example"), False),
        Case(("https://evil-lab.example", "lab.example"), False),
        Case(("http://127.0.0.1:9999", "127.0.0.1:8080"), False),
        Case(("null", "lab.example"), False),
        Case((None, "lab.example"), True),
    ),
    mistakes=(
        Mistake(
            starts_with,
            "a prefix is not a host: anyone can register a domain below "
            "`evil.test` that begins with your name.",
        ),
        Mistake(
            ends_with,
            "a suffix is not a host: `evil-lab.example` is another domain, and cheap.",
        ),
        Mistake(contains, "whoever can put your name anywhere into theirs gets in."),
        Mistake(
            without_port,
            "the port is part of an origin: another program on the same machine is "
            "another party.",
        ),
        Mistake(
            refuses_everyone_else,
            "only browsers send `Origin`. A program without one is no page that acts "
            "for a visitor; its token is what counts.",
        ),
        Mistake(
            only_https,
            "the scheme here may be `http`: on a laptop it is. Compare the place.",
        ),
    ),
    look_at="`_check_origin` and `_place` in `labserver/stages/auth.py`.",
    praise="The browser adds `Origin`, and no script on the page can change it: that "
    "is why it can be trusted where a cookie cannot.",
)
