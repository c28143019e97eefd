"""What Locust's page refuses: requests of other sites, and runs that cannot begin.

Locust answers requests of every origin, and its page has no login. So any site that a
browser shows could begin a run on the machine that the browser runs on. A site can also
give its own name this machine's address (DNS rebinding). Its scripts then have the
page's origin, and only the name in ``Host`` tells them from the page.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from locust.env import Environment

from labserver.load.run.hooks import options_of
from labserver.load.run.options import Unusable, check_page, try_servers
from labserver.load.run.origins import is_ours, is_own

FORM = ("host", "publish_rate", "payload_bytes")
UNKNOWN = (
    "this page answers to localhost, an IP address, or the name in --web-host only\n"
)


def guard(environment: Environment) -> None:
    """Let Locust's page answer its own requests only, and try a server before a run."""
    page: Any = environment.web_ui
    start = f"{options_of(environment).web_base_path or ''}/swarm"

    def check() -> Any:
        from flask import jsonify, request

        origin, host = request.headers.get("Origin"), request.headers.get("Host")
        if not is_ours(host, options_of(environment).web_host):
            return UNKNOWN, 403
        if not is_own(origin, host, request.headers.get("Sec-Fetch-Site")):
            return "this page answers its own requests only\n", 403
        if request.method != "POST" or request.path != start:
            return None
        try:
            try_run(options_of(environment), request.form)
        except Unusable as exc:
            print(f"loadtests: {exc}", file=sys.stderr, flush=True)
            said = {"success": False, "message": str(exc), "host": environment.host}
            return jsonify(said)
        return None

    def forget(response: Any) -> Any:
        for name in [each for each, _ in response.headers]:
            if name.lower().startswith("access-control-"):
                del response.headers[name]
        return response

    page.app.before_request(check)
    # The first of the list is the last that is called: after Locust's own.
    page.app.after_request_funcs.setdefault(None, []).insert(0, forget)


def try_run(options: Namespace, form: Mapping[str, str]) -> None:
    """Check what was typed into the page, and connect to each server once.

    Raises:
        Unusable: With the reason.

    """
    typed = {name: form[name] for name in FORM if name in form}
    asked = Namespace(**{**vars(options), **typed})
    check_page(asked)
    try_servers(asked)
