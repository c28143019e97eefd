"""Typed access to Locust's hooks, options and runner, which have no types."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, TypeVar

from locust.env import Environment
from locust.event import EventHook
from locust.runners import Runner

F = TypeVar("F", bound=Callable[..., Any])


def listens(hook: EventHook) -> Callable[[F], F]:
    """Return a decorator that adds a listener to a hook."""

    def add(listener: F) -> F:
        hook.add_listener(listener)  # type: ignore[no-untyped-call]
        return listener

    return add


def options_of(environment: Environment) -> Namespace:
    """Return the parsed command line; it is there from the first event on."""
    options: Namespace | None = environment.parsed_options
    assert options is not None
    return options


def runner_of(environment: Environment) -> Runner:
    """Return the runner of the users; it is there from the event ``init`` on."""
    assert environment.runner is not None
    return environment.runner
