"""``labserver stages`` and ``mistakes``: the tables."""

from __future__ import annotations

import json

from rich.markup import escape
from rich.table import Table

from labserver.cli.app import AsJson, app, table_out
from labserver.stages import STAGES


@app.command()
def stages(
    as_json: AsJson = False,
) -> None:
    """List the stages: number, name, file, lines, promise."""
    if as_json:
        rows = [
            {
                "number": each.number,
                "name": each.name,
                "file": each.file.name,
                "lines": each.lines,
                "promise": each.promise,
            }
            for each in STAGES.values()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("#", "stage", "file", "lines", "promise", box=None, pad_edge=False)
    for each in STAGES.values():
        table.add_row(
            str(each.number), each.name, each.file.name, str(each.lines), each.promise
        )
    table_out.print(table)


@app.command()
def mistakes(
    as_json: AsJson = False,
) -> None:
    """List the mistakes: name, stage, what goes wrong, where it was seen.

    To run a server with one of them: labserver serve --mistake NAME.
    """
    from labserver.mistakes import MISTAKES

    if as_json:
        rows = [
            {
                "name": each.name,
                "stage": each.stage,
                "wrong": each.wrong,
                "seen": each.seen,
                "side": "server" if each.extend else "client",
            }
            for each in MISTAKES.values()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("mistake", "stage", "what goes wrong", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for each in MISTAKES.values():
        where = "" if each.extend else " (client)"
        what = f"{escape(each.wrong)}\n[dim]Seen: {escape(each.seen)}.[/]"
        table.add_row(each.name, each.stage + where, what)
    table_out.print(table)
