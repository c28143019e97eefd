"""Settings: an error names the variable whose value cannot be used."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from labserver.errors import SettingsError
from labserver.settings import (
    POLICIES,
    Settings,
    flag,
    from_environment,
    parse,
    variable,
)

FIELDS = {each.name: each for each in fields(Settings)}
NUMBERS = [each for each in FIELDS.values() if type(each.default) in (int, float)]
CONTRACT = {
    "heartbeat_interval": 25,
    "outbox_limit": 2**20,
    "outbox_policy": "disconnect",
    "stuck_timeout": 10,
    "drain_timeout": 10,
    "history_limit": 1000,
    "history_ttl": 300,
    "origins": (),
    "message_size_limit": 65536,
    "message_rate_limit": 1000,
    "rooms_limit": 128,
    "connection_limit": 0,
    "address_limit": 0,
    "admission_rate": 0,
    "send_buffer": 0,
}


@pytest.mark.parametrize("name", CONTRACT)
def test_default_is_what_other_programs_rely_on(name: str) -> None:
    assert getattr(Settings(), name) == CONTRACT[name]
    assert variable(FIELDS[name]) == f"LAB_{name.upper()}"
    assert flag(FIELDS[name]) == f"--{name.replace('_', '-')}"


def test_redis_is_named_as_its_clients_name_it() -> None:
    assert variable(FIELDS["redis"]) == "LAB_REDIS_URL"
    assert flag(FIELDS["redis"]) == "--redis"


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().outbox_limit = 5  # type: ignore[misc]


def test_given_beats_environment_beats_default() -> None:
    environment = {"LAB_OUTBOX_LIMIT": "7", "LAB_STUCK_TIMEOUT": "0.5"}
    settings = from_environment(environment, outbox_limit=9)
    assert settings.outbox_limit == 9
    assert settings.stuck_timeout == 0.5
    assert settings.drain_timeout == 10.0


def test_lists_are_comma_separated() -> None:
    text = "https://a.example, http://b.example:3000 ,,"
    settings = from_environment({"LAB_ORIGINS": text})
    assert settings.origins == ("https://a.example", "http://b.example:3000")


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_is_one_of_four(policy: str) -> None:
    assert Settings(outbox_policy=policy).outbox_policy == policy


@pytest.mark.parametrize("each", NUMBERS, ids=lambda each: each.name)
@pytest.mark.parametrize("text", ["many", "", "-1", "nan", "inf", "1e999", "0x10"])
def test_bad_number_names_its_variable(each, text: str) -> None:
    with pytest.raises(SettingsError, match=variable(each)) as caught:
        from_environment({variable(each): text})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("outbox_policy", "drop"),
        ("outbox_policy", ""),
        ("redis", "localhost:6379"),
        ("redis", "http://localhost"),
        ("redis", "redis://"),
        ("redis", "redis://localhost/abc"),
        ("redis", "rediss://:hush@localhost:6379/1x?timeout=2"),
        ("heartbeat_interval", "0"),
        ("handshake_timeout", "0"),
        ("history_limit", "0"),
    ],
)
def test_value_that_makes_no_sense_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable(FIELDS[name])):
        from_environment({variable(FIELDS[name]): text})


@pytest.mark.parametrize(
    "url",
    [
        *("redis://localhost", "redis://localhost/", "redis://:a@localhost:6379/12"),
        *("rediss://localhost/0?db=3", "unix:///run/redis.sock?db=1"),
        "redis+cluster://one:7000,two:7000",
    ],
)
def test_url_of_a_redis_is_accepted(url: str) -> None:
    assert Settings(redis=url).redis == url


def test_message_about_a_long_value_stays_a_line() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(FIELDS["outbox_limit"], "x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["secret", "redis"])
def test_secret_settings_are_marked(name: str) -> None:
    assert FIELDS[name].metadata["secret"]


@pytest.mark.parametrize("name", ["secret", "redis"])
def test_secret_settings_are_not_shown(name: str) -> None:
    value = "redis://:hush@localhost"
    assert "hush" not in repr(Settings(**{name: value}))


def test_redis_password_is_not_in_the_message_about_it() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(redis="tcp://:hush@localhost")
    assert "hush" not in str(caught.value)


# A password for Redis, from a file


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", "redis://:p%40s%2Fs@host"),
        ("redis://ann@host:6380/1", "redis://ann:p%40s%2Fs@host:6380/1"),
        ("unix:///run/redis.sock?db=1", "unix://:p%40s%2Fs@/run/redis.sock?db=1"),
        ("redis+cluster://a:1,b:2", "redis+cluster://:p%40s%2Fs@a:1,b:2"),
        ("redis://:own@host", "redis://:own@host"),
        ("redis://[", "redis://["),
    ],
)
def test_password_of_a_file_is_that_of_a_url_without_one(
    url: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("p@s/s\n")
    environment = {"LAB_REDIS_PASSWORD_FILE": str(file), "LAB_REDIS_URL": url}
    assert from_environment(environment).redis == expected
    assert from_environment({"LAB_REDIS_URL": url}).redis == url


def test_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "password"
    environment = {"LAB_REDIS_PASSWORD_FILE": str(file), "LAB_REDIS_URL": "redis://h"}
    with pytest.raises(SettingsError, match="LAB_REDIS_PASSWORD_FILE cannot be read"):
        from_environment(environment)
    file.write_text("\n")
    with pytest.raises(SettingsError, match="LAB_REDIS_PASSWORD_FILE names an empty"):
        from_environment(environment)
    assert from_environment({**environment, "LAB_REDIS_URL": ""}).redis == ""
