"""The command line: each module adds its commands to the application."""

# In the order in which --help lists them.
from labserver.cli import running as running  # isort: skip
from labserver.cli import listing as listing  # isort: skip
from labserver.cli import judge as judge  # isort: skip
from labserver.cli import contract as contract  # isort: skip
from labserver.cli import learning as learning  # isort: skip
from labserver.cli import doctor as doctor  # isort: skip
from labserver.cli.app import app, main

__all__ = ["app", "main"]
