"""The flags of ``labserver serve``: one for each setting, with its description."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from typing import Annotated, Any

import typer

from labserver.settings import Settings, flag, kind, parse, variable

# The secret has no flag: every user of the machine can read a command line.
FLAGS = [each for each in fields(Settings) if each.name != "secret"]


def settings_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each setting; pass the flags that are set as ``given``."""

    @wraps(function)
    def command(**values: Any) -> None:
        given = {}
        for each in FLAGS:
            text = values.pop(each.name)
            if text is not None:
                given[each.name] = text if text is True else parse(each, text)
        function(**values, given=given)

    own = inspect.signature(function, eval_str=True)
    parameters = [each for each in own.parameters.values() if each.name != "given"]
    for each in FLAGS:
        parameters.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, _option(each)],
            )
        )
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _option(setting: Field[Any]) -> Any:
    text = setting.metadata["help"]
    default = setting.default
    if "choices" in setting.metadata:
        text += f" One of {', '.join(filter(None, setting.metadata['choices']))}."
    if isinstance(default, int | float):
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        text += f" Default {shown}{', off' if default == 0 else ''}."
    elif isinstance(default, str) and default:
        text += f" Default {default}."
    elif default is None:
        text += " Default none, off."
    kinds: dict[type, str] = {int: "N", float: "SECONDS"}
    metavar = kinds.get(kind(setting), "TEXT")
    if setting.name in ("message_rate_limit", "admission_rate"):
        metavar = "RATE"
    return typer.Option(
        flag(setting),
        help=f"{text} [{variable(setting)}]",
        metavar=metavar,
        show_default=False,
        rich_help_panel="Settings (flag, or the variable in brackets)",
    )
