"""``python -m labserver`` and ``labserver`` are the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C is silent from the first import on."""
    try:
        from labserver import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
