"""One project of docker-compose.yml for all tests that need it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.support.compose import BUILD_TIMEOUT, Stack, free_port, replicas_up


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, up and ready; taken down whatever happens."""
    secrets = tmp_path_factory.mktemp("secrets")  # for this user alone, as make env's
    stack = Stack(secrets, *(free_port() for _ in range(5)))
    stack.compose("build", "labserver", within=BUILD_TIMEOUT)
    try:
        stack.compose("up", "-d", "labserver")
        with asyncio.Runner() as runner:
            runner.run(eventually(lambda: replicas_up(stack) == 3, within=60))
        yield stack
    finally:
        options = ("--volumes", "--remove-orphans", "--timeout", "2")
        stack.compose("--profile", "metrics", "down", *options)


@pytest.fixture(scope="session")
def lab(stack: Stack) -> Stack:
    """The stack with its other services: load, metrics and notebooks."""
    stack.compose("build", "locust", within=BUILD_TIMEOUT)
    stack.compose("up", "-d", "--no-recreate")
    return stack
