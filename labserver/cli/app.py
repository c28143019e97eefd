"""What all commands share: the application, its errors, and common options."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from labserver import __version__
from labserver.errors import LabError
from labserver.stages import STAGES

# Not exported by typer itself.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A real-time WebSocket server in seven stages, to read and to measure.",
    epilog="Start with: labserver serve --stage echo. Tokens are signed with "
    "LAB_SECRET; settings are flags or LAB_* variables.",
)
# Output to a file or pipe is 120 columns wide, so that a promise fits on its line.
table_out = Console(width=None if sys.stdout.isatty() else 120)


Stage = Annotated[str, typer.Option(help="Last stage: " + ", ".join(STAGES) + ".")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def main() -> None:
    """Run the command line; an error of the user prints one line and exits with 2."""
    try:
        status = app(prog_name="labserver", standalone_mode=False)
    except LabError as exc:
        fail(str(exc))
    except UsageError as exc:
        if text := exc.format_message():  # type: ignore[attr-defined]
            fail(f"{text} (see --help)")
        sys.exit(2)  # no command was given: typer has shown the help
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(text: str) -> NoReturn:
    """Print what is wrong, and exit with status 2."""
    print(f"labserver: {text}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.")
    ] = False,
) -> None:
    if version:
        print(f"labserver {__version__}")
        raise typer.Exit


def console_of(as_json: bool) -> Console:
    """Return where progress goes: beside the JSON, when that is asked for."""
    terminal = sys.stderr.isatty() if as_json else sys.stdout.isatty()
    return Console(stderr=as_json, width=None if terminal else 120, highlight=False)
