"""``python -m loadtests``: run the scenarios here, compare results."""

from labserver.load.commands import start

start()
