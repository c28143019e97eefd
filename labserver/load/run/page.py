"""What the load lab adds to Locust's page: a bar with the verdict, tabs, reports.

The bar is drawn by ``page.js``, which also keeps the picked classes: Locust's form
forgets them after "New".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment

from labserver.load.run.guard import guard
from labserver.load.run.hooks import listens, options_of
from labserver.load.run.live import told
from labserver.load.run.runs import show_runs

SCRIPT = Path(__file__).with_name("page.js")
TABS = {
    "verdict": (
        "Verdict",
        "groups",
        {
            "name": "Members",
            "delivered": "Delivered",
            "lost": "Lost",
            "wrong": "Twice or out of order",
            "gaps": "Announced gaps",
            "p50": "p50 from due",
            "p99": "p99 from due",
            "max": "Max",
        },
    ),
    "generator": (
        "Generator",
        "generators",
        {
            "name": "Process",
            "users": "Users",
            "sent": "Sent late by (p99)",
            "read": "Read late by (p99)",
            "cpu": "Processor",
            "waited": "Waited for one",
            "still": "Stood still",
        },
    ),
}


@listens(events.init)
def extend(environment: Environment, **_: Any) -> None:
    page: Any = environment.web_ui
    if page is None:
        return
    several = len({each.scenario for each in environment.user_classes}) > 1  # type: ignore[attr-defined]
    if several and environment.shape_class is None:
        pick(environment)
    page.template_args["extended_tabs"] = [
        {"key": key, "title": title} for key, (title, _, _) in TABS.items()
    ]
    page.template_args["extended_tables"] = [
        {
            "key": key,
            "structure": [{"key": k, "title": v} for k, v in columns.items()],
        }
        for key, (_, _, columns) in TABS.items()
    ]

    base = options_of(environment).web_base_path or ""

    def run() -> Any:
        return told(environment)

    def script() -> Any:
        return page.app.response_class(SCRIPT.read_text(), mimetype="text/javascript")

    def add(response: Any) -> Any:
        from flask import request

        if response.status_code != 200:
            return response
        if request.path.endswith("/stats/requests"):
            found = told(environment)
            data = [{"key": k, "data": found[rows]} for k, (_, rows, _) in TABS.items()]
            response.set_data(json.dumps({**response.json, "extended_stats": data}))
        elif request.path == f"{base}/":
            text = response.get_data(as_text=True)
            tag = '<script src="./lab/page.js"></script></body>'
            response.set_data(text.replace("</body>", tag))
        return response

    guarded = page.auth_required_if_enabled(run)
    page.app.add_url_rule(f"{base}/lab/run", "lab_run", guarded)
    page.app.add_url_rule(f"{base}/lab/page.js", "lab_script", script)
    page.app.after_request(add)
    show_runs(environment)
    guard(environment)


def pick(environment: Environment) -> None:
    """Let visitors of the page pick user classes, as with ``--class-picker``."""
    page: Any = environment.web_ui
    page.userclass_picker_is_active = True
    classes: list[Any] = environment.user_classes
    environment.available_user_classes = {each.__name__: each for each in classes}
    environment.available_shape_classes = {}
    environment.available_user_tasks = {each.__name__: each.tasks for each in classes}
