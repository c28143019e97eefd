"""JUnit XML, which every CI reads: of promises, and of load tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from labserver.errors import SettingsError

# XML has no way to write these characters.
UNWRITABLE = {code: "?" for code in range(32) if code not in (9, 10)}
ELEMENTS = {"failed": "failure", "error": "error", "skipped": "skipped"}
COUNTS = {"failed": "failures", "error": "errors", "skipped": "skipped"}


@dataclass(frozen=True)
class Case:
    """One test case.

    Args:
        suite: Name of its suite.
        name: Its own name.
        seconds: How long it took.
        outcome: ``error`` if nobody can say whether it passed.
        message: What was seen.
        text: More of it, in lines.

    """

    suite: str
    name: str
    seconds: float
    outcome: Literal["passed", "failed", "error", "skipped"] = "passed"
    message: str = ""
    text: str = ""


def document(cases: Iterable[Case]) -> str:
    """Return the cases as XML, by suite, in their order."""
    suites: dict[str, list[Case]] = {}
    for case in cases:
        suites.setdefault(case.suite, []).append(case)
    root = ElementTree.Element("testsuites")
    for name, mine in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", name=clean(name))
        for outcome, attribute in COUNTS.items():
            count = sum(each.outcome == outcome for each in mine)
            suite.set(attribute, str(count))
        suite.set("tests", str(len(mine)))
        for each in mine:
            element = ElementTree.SubElement(
                suite, "testcase", classname=clean(name), name=clean(each.name)
            )
            element.set("time", f"{each.seconds:.3f}")
            if each.outcome in ELEMENTS:
                said = ElementTree.SubElement(
                    element, ELEMENTS[each.outcome], message=clean(each.message)
                )
                said.text = clean(each.text) or None
    return ElementTree.tostring(root, encoding="unicode")


def clean(text: str) -> str:
    return text.translate(UNWRITABLE)


def write(path: Path, text: str) -> None:
    """Write a file that was asked for.

    Raises:
        SettingsError: It cannot be written.

    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"{path} cannot be written: {exc.strerror}") from None
