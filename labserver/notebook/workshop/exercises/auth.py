"""Chapter 2: let only pages of the same host connect."""

from __future__ import annotations

from urllib.parse import urlsplit

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake


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


def empty_is_missing(origin: str | None, host: str) -> bool:
    return not origin or urlsplit(origin).netloc == host


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
        Case(("", "lab.example"), False),
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
            "a suffix is not a host: anyone can register `evil-lab.example`.",
        ),
        Mistake(contains, "any domain that contains your name anywhere is let in."),
        Mistake(
            without_port,
            "the port is part of an origin: another port of the same machine may be "
            "a program of somebody else.",
        ),
        Mistake(
            refuses_everyone_else,
            "only browsers send `Origin`. A client without it is not a page that uses "
            "its visitor's cookies; its token decides.",
        ),
        Mistake(
            empty_is_missing,
            "an empty `Origin` is not a missing one: it names another host than yours. "
            "Compare with `None`.",
        ),
        Mistake(
            only_https,
            "the scheme may be `http`, as on a laptop. Compare only host and port.",
        ),
    ),
    look_at="`_check_origin` and `_place` in `labserver/stages/auth.py`.",
    praise="The browser sets `Origin`, and no script on the page can change it. So "
    "the server can trust it, while a cookie is sent for any page.",
)
