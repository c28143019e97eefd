"""``python -m labserver`` is the command line."""

from labserver.cli import main

main()
