"""Past runs on Locust's page: a list with their verdicts, and the report of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locust.env import Environment

from labserver.load.figures.saved import Unreadable, is_run, load_all
from labserver.load.pictures.listing import listed
from labserver.load.pictures.report import page
from labserver.load.run.hooks import options_of
from labserver.load.run.live import aside

LISTED = 100  # newest runs; older ones are in the folder


def show_runs(environment: Environment) -> None:
    """Add ``lab/runs`` to Locust's page, and below it the report of each run."""
    ui: Any = environment.web_ui
    options = options_of(environment)
    folder = Path(options.results)

    def runs() -> Any:
        return aside(listed, newest(folder))

    def report(name: str) -> Any:
        if name not in {each.name for each in newest(folder)}:
            return "there is no such run\n", 404
        try:
            return aside(lambda: page(load_all(folder / name)))
        except Unreadable as exc:
            return ui.app.response_class(f"{exc}\n", 404, mimetype="text/plain")

    base = f"{options.web_base_path or ''}/lab/runs/"
    ui.app.add_url_rule(base, "lab_runs", ui.auth_required_if_enabled(runs))
    ui.app.add_url_rule(
        f"{base}<name>/", "lab_report", ui.auth_required_if_enabled(report)
    )


def newest(folder: Path) -> list[Path]:
    """Return the folders of the newest runs, the newest first."""
    found = [each for each in folder.glob("*Z-*") if is_run(each)]
    return sorted(found, reverse=True)[:LISTED]
