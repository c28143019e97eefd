"""Checks of the options of a load test.

A refused option prints one sentence on stderr and exits before any user is spawned:
with 2 for a wrong option, with 3 if no server could deliver messages.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from labserver.contract.messages import Hello
from labserver.contract.tokens import issue
from labserver.load.addresses import normal, shown
from labserver.load.dialects import Dialect, Reply, named
from labserver.load.figures.require import Requirement
from labserver.load.figures.require import parse as requirement
from labserver.load.run.arguments import (
    TIME_LIMIT,
    USERS_LIMIT,
    payload_bytes,
    publish_rate,
)
from labserver.load.run.dispatch import PublishersApart
from labserver.load.run.hooks import listens, options_of
from labserver.load.run.owned import is_owner
from labserver.load.run.shape import Steps, Table, read_stages
from labserver.load.tls import Untrusted
from labserver.load.websocket import Closed, Refused, WebSocket
from labserver.processes.reach import NotThisMachine, resolve
from labserver.settings import secret_of

DEFAULT_TIME = 30  # seconds, for a headless run without -t
HELLO_TIMEOUT = 5.0  # seconds
TOKEN_TTL = TIME_LIMIT + 600  # seconds


class Unusable(Exception):
    """A run cannot start; the message is a sentence."""

    def __init__(self, sentence: str, code: int = 2) -> None:
        super().__init__(sentence)
        self.code = code


def required(options: Namespace) -> list[Requirement]:
    """Return the requirements of ``--require``; raises Unusable for a bad one."""
    try:
        return [requirement(each) for each in options.require or ()]
    except ValueError as exc:
        raise Unusable(f"--require {exc}") from None


def urls(options: Namespace) -> list[str]:
    """Return the servers of the scenario replicas."""
    given = [each.strip() for each in options.replicas.split(",") if each.strip()]
    return [normal(each) for each in given or [options.host]]


def servers(options: Namespace) -> list[str]:
    """Return all servers of a run, each once."""
    return list(dict.fromkeys([normal(options.host), *urls(options)]))


def token(user: str) -> str:
    """Return ``LAB_TOKEN``, else a token for ``user`` signed with ``LAB_SECRET``.

    These are not command-line options, because every user of a machine can read the
    command line of a process.

    Raises:
        Unusable: Neither is set.

    """
    if given := os.environ.get("LAB_TOKEN", ""):
        return given
    if secret := secret_of():
        return issue(secret, user, ttl=TOKEN_TTL)
    raise Unusable(
        "there is no token: set LAB_TOKEN, or LAB_SECRET to the secret that the "
        "server was started with"
    )


user_numbers = itertools.count(1)


def user_name() -> str:
    """Return a name for the next user of this process."""
    return f"load-{os.getpid()}-{next(user_numbers)}"


def check(options: Namespace, headless: bool) -> None:
    """Check the options of a run, and fill in defaults.

    Raises:
        Unusable: With the reason.

    """
    try:
        named(options.dialect)("check").headers()
    except ValueError as exc:
        raise Unusable(str(exc)) from None
    if headless:
        if not options.run_time:
            options.run_time = DEFAULT_TIME
        if not options.host and options.replicas:
            options.host = options.replicas.split(",")[0].strip()
        if not options.host:
            raise Unusable("there is no server: add --host ws://127.0.0.1:8080")
    if options.run_time and options.run_time > TIME_LIMIT:
        raise Unusable(f"-t is at most {TIME_LIMIT} seconds, not {options.run_time}")
    if options.num_users is not None and options.num_users < 1 and headless:
        raise Unusable(f"-u is at least 1 user, not {options.num_users}")
    if options.num_users and options.num_users > USERS_LIMIT:
        raise Unusable(f"-u is at most {USERS_LIMIT} users, not {options.num_users}")
    if options.host:
        check_servers(options)
    try:
        Path(options.results).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Unusable(f"--results {options.results}: {exc.strerror}") from None


def check_page(options: Namespace) -> None:
    """Check what was typed into Locust's page, which does not check bounds.

    Raises:
        Unusable: A value is out of bounds; it is reset to its default.

    """
    checks = (
        ("publish_rate", publish_rate, 20.0),
        ("payload_bytes", payload_bytes, 150),
    )
    for name, parse, default in checks:
        try:
            parse(str(getattr(options, name)))
        except ArgumentTypeError as exc:
            setattr(options, name, default)
            raise Unusable(f"{name.replace('_', ' ')} {exc}") from None
    if not options.host:
        raise Unusable("there is no server: enter one, ws://127.0.0.1:8080")
    check_servers(options)


def check_servers(options: Namespace) -> None:
    """Raise Unusable for a server that has no valid URL, or is not on this machine."""
    try:
        for url in servers(options):
            resolve(url)
    except (ValueError, NotThisMachine) as exc:
        raise Unusable(str(exc)) from None
    except OSError as exc:
        raise Unusable(f"{shown(url)}: {exc.strerror or exc}") from None


def greeting(connection: WebSocket, dialect: Dialect) -> Hello:
    """Wait for the server's greeting; one read may not be enough.

    Raises:
        ValueError: None comes, or something else.

    """
    deadline = time.monotonic() + HELLO_TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        for data in connection.receive(left):
            for said in dialect.read(data):
                if isinstance(said, Hello):
                    return said
                if not isinstance(said, Reply):
                    raise ValueError
                connection.send(said.data)
    raise ValueError


def try_servers(options: Namespace) -> None:
    """Connect to each server once, so that a wrong port or secret is reported once.

    Raises:
        Unusable: A server cannot be used.

    """
    for url in servers(options):
        try_server(url, named(options.dialect)(user_name()))


def try_server(url: str, dialect: Dialect) -> None:
    where = shown(url)
    stage = ""
    try:
        address, headers = dialect.address(url), dialect.headers()
        connection = WebSocket(address, headers, 0, dialect.subprotocols)
        try:
            for message in dialect.opened():
                connection.send(message)
            if dialect.greets:
                stage = greeting(connection, dialect).stage
        finally:
            connection.close()
    except Refused as exc:
        hint = (
            " (check LAB_SECRET, or whether LAB_TOKEN has expired)"
            if exc.status == 401
            else ""
        )
        raise Unusable(f"{where} refused: {exc}{hint}", 3) from None
    except Closed as exc:
        raise Unusable(f"{where} hung up: {exc}", 3) from None
    except Untrusted as exc:
        raise Unusable(
            f"{where} has a certificate that is not trusted ({exc}): name the file "
            "of its CA in SSL_CERT_FILE",
            3,
        ) from None
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise Unusable(
            f"no server answers at {where} ({why}): start one with "
            "`labserver serve`, or name another with --host",
            3,
        ) from None
    except (ValueError, KeyError, TypeError, IndexError):
        name = type(dialect).__name__
        raise Unusable(
            f"{where} did not greet as the dialect {name} expects: is it the right "
            "server, and the right --dialect?",
            3,
        ) from None
    if stage in ("echo", "auth"):
        raise Unusable(
            f"{where} runs stage {stage}, which has no rooms: load tests need "
            "`labserver serve --stage rooms` or a later one",
            3,
        )


def choose(environment: Environment) -> None:
    """Keep only the users of ``--scenario``; apply ``--fault`` and the load's shape.

    Raises:
        Unusable: There is no such scenario, or the fault cannot be injected.

    """
    options = options_of(environment)
    classes: list[Any] = environment.user_classes
    if wanted := {each.strip() for each in options.scenario.split(",") if each.strip()}:
        known = {each.scenario for each in classes}
        if wanted - known:
            raise Unusable(
                f"there is no scenario {min(wanted - known)!r}, but "
                f"{', '.join(sorted(known))}"
            )
        classes[:] = [each for each in classes if each.scenario in wanted]
    named_here = {each.scenario for each in classes}
    for asked in required(options):
        if asked.scenario and asked.scenario not in named_here:
            raise Unusable(
                f"--require {asked.text!r}: there is no scenario {asked.scenario!r} in "
                f"this run, but {', '.join(sorted(named_here))}"
            )
    if options.dialect != "lab":
        classes[:] = [each for each in classes if not each.of_lab]
    if options.fault != "none" and not is_owner():
        raise Unusable(
            f"--fault {options.fault} needs servers that belong to the load test: run "
            "`python -m loadtests` in place of `locust -f loadtests`"
        )
    if options.fault == "kill-replica" and "," not in options.replicas:
        raise Unusable("--fault kill-replica needs two servers at least")
    environment.dispatcher_class = PublishersApart
    if options.shape:
        shape(environment)
    elif options.steps:
        users, seconds = options.steps
        most, run_time = options.num_users or 1, options.run_time or DEFAULT_TIME
        environment.shape_class = Steps(users, seconds, most, run_time)


def shape(environment: Environment) -> None:
    """Apply ``--shape``.

    Raises:
        Unusable: It is no such table, or it contradicts another option.

    """
    options = options_of(environment)
    if options.steps or options.num_users or options.spawn_rate:
        raise Unusable("--shape says how many users when: leave out -u, -r and --steps")
    path = Path(options.shape)
    try:
        stages = read_stages(path, USERS_LIMIT, TIME_LIMIT)
    except ValueError as exc:
        raise Unusable(f"--shape {path}: {exc}") from None
    except OSError as exc:
        raise Unusable(f"--shape {path}: {exc.strerror}") from None
    options.num_users = max(each.users for each in stages)
    options.run_time = options.run_time or stages[-1].seconds
    environment.shape_class = Table(stages, options.run_time)


# The first of all listeners, so that a refused run starts nothing.
@listens(events.init)
def check_or_leave(environment: Environment, runner: Any, **_: Any) -> None:
    options = options_of(environment)
    headless = bool(options.headless) and not isinstance(runner, WorkerRunner)
    try:
        choose(environment)
        check(options, headless)
        if not isinstance(runner, WorkerRunner):  # a worker's job names the host
            environment.host = options.host
        if headless:
            try_servers(options)
    except Unusable as exc:
        print(f"loadtests: {exc}", file=sys.stderr, flush=True)
        if isinstance(runner, MasterRunner | WorkerRunner):
            runner.greenlet.kill(block=False)
        sys.exit(exc.code)
