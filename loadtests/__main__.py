"""``python -m loadtests``: run the scenarios of this folder, compare results."""

from labserver.load.commands import start

start()
