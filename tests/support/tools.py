"""Programs that some tests use and that a machine may not have."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from labserver.demo.router import find_haproxy
from tests.support.chromium import CHROMIUM, playwright

# What a test names as ``needs(...)``, with where it is; None where it is not.
TOOLS = {
    "Chromium": CHROMIUM,
    "Playwright": playwright and "a module",
    "HAProxy": find_haproxy(),
    "nginx": shutil.which("nginx"),
    "Caddy": shutil.which("caddy"),
    # Debian's package has both.
    "Prometheus": shutil.which("promtool") and shutil.which("prometheus"),
    "Redis exporter": shutil.which("prometheus-redis-exporter"),
    "systemd-analyze": shutil.which("systemd-analyze"),
    "curl": shutil.which("curl"),
    "C compiler": shutil.which("cc"),
    "openssl": shutil.which("openssl"),
    "Node": shutil.which("node"),
    "npm": shutil.which("npm"),
    "TypeScript": shutil.which("tsc"),
    "kubernetes-validate": find_spec("kubernetes_validate") and "a module",
    "FastAPI": find_spec("fastapi") and "a module",
    "Sphinx": find_spec("myst_nb") and "a module",
}
