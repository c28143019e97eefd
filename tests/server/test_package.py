"""lab-client.js as a package: what npm packs, on Node, and its types."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from labserver import __version__
from labserver.contract.tokens import issue
from tests.conftest import SECRET, Running

CONSOLE = Path(__file__).parents[2] / "labserver" / "server" / "console"
TYPES = (CONSOLE / "lab-client.d.ts").read_text()
pytestmark = [pytest.mark.timeout(90), pytest.mark.needs("Node")]

TALK = """
import { Backoff, LabClient } from "lab-client";
const [url, token] = process.argv.slice(2);
const backoff = new Backoff({ first: 10, cap: 50 });
const client = new LabClient(url, { token: () => token, backoff });
const heard = [];
client.addEventListener("message", ({ detail }) => {
    heard.push(detail.payload);
    if (detail.payload !== "end") return;
    console.log(JSON.stringify({ heard, connects: client.connects }));
    client.stop();
});
client.addEventListener("state", ({ detail }) => {
    if (detail.code === 4401) console.log(JSON.stringify(detail));
});
client.start();
await client.join("lobby");
await client.publish("lobby", "hello");
client.cut();
await client.publish("lobby", "end");
"""
GOOD = """
import { LabClient, ServerError, type Joined } from "lab-client";
const client = new LabClient(["ws://a", "ws://b"], { token: async () => "x" });
client.addEventListener("message", ({ detail }) => {
    const from: string = detail.from;
});
client.addEventListener("state", ({ detail }) => {
    if (detail.state === "open") console.log(detail.hello.user);
    else if (detail.state === "waiting") console.log(detail.delay.toFixed(0));
});
const joined: Joined = await client.join("lobby", { epoch: "e", seq: 7 });
const seq: number = (await client.publish("lobby", { any: joined })).seq;
export const isDown = (error: unknown) =>
    error instanceof ServerError && error.code === "broker_down";
"""
WRONG = [
    "new LabClient(7);",
    'new LabClient("ws://a", { token: "x" });',
    'new LabClient("ws://a").join("lobby", 7);',
    'new LabClient("ws://a").hello = null;',
    'new LabClient("ws://a").addEventListener("gap", ({ detail }) => detail.payload);',
]


def ran(*command: str, cwd: Path, status: int = 0) -> str:
    """Run a program that needs no network; return its output."""
    said = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "npm_config_offline": "true", "npm_config_cache": str(cwd)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == status, said.stdout + said.stderr
    return said.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the packed package is installed."""
    folder = tmp_path_factory.mktemp("project")
    if npm := shutil.which("npm"):
        (packed,) = json.loads(ran(npm, "pack", "--json", str(CONSOLE), cwd=folder))
        with tarfile.open(folder / packed["filename"]) as archive:
            archive.extractall(folder, filter="data")
        (folder / "node_modules").mkdir()
        (folder / "package").rename(folder / "node_modules" / "lab-client")
    return folder


@pytest.mark.needs("npm")
def test_package_is_the_one_file_and_its_types(project: Path) -> None:
    package = project / "node_modules" / "lab-client"
    names = {path.name for path in package.iterdir()}
    assert names == {"lab-client.js", "lab-client.d.ts", "package.json"}
    facts = json.loads((package / "package.json").read_text())
    assert facts["version"] == __version__
    assert "dependencies" not in facts


async def node(project: Path, *arguments: str) -> list[dict[str, object]]:
    """Run the program; return the JSON lines that it printed until it ended itself."""
    (project / "talk.mjs").write_text(TALK)
    flags = ["--experimental-websocket"] if major() < 22 else []
    process = await asyncio.create_subprocess_exec(
        *("node", "--no-warnings", *flags, "talk.mjs", *arguments),
        cwd=project,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return [json.loads(line) for line in out.splitlines()]


def major() -> int:
    said = subprocess.run(
        ["node", "--version"], capture_output=True, text=True, timeout=20
    )
    return int(said.stdout.strip().removeprefix("v").partition(".")[0])


@pytest.mark.needs("npm")
async def test_package_reconnects_and_resumes_on_node(
    project: Path, running: Running
) -> None:
    async with running("resume") as server:
        (said,) = await node(project, server.url, issue(SECRET, "ann"))
    assert said == {"heard": ["hello", "end"], "connects": 2}


@pytest.mark.needs("npm")
async def test_refused_token_ends_it_on_node_too(
    project: Path, running: Running
) -> None:
    async with running("resume") as server:
        (said,) = await node(project, server.url, issue("x" * 32, "ann"))
    assert said["state"] == "closed"


def test_everything_that_is_exported_has_its_type(tmp_path: Path) -> None:
    script = """
        globalThis.WebSocket ??= class {};
        const all = await import(process.argv[1]);
        const members = Object.getOwnPropertyNames(all.LabClient.prototype);
        console.log(JSON.stringify([Object.keys(all), members]));
    """
    flags = ("--input-type=module", "-e", script)
    said = ran("node", *flags, str(CONSOLE / "lab-client.js"), cwd=tmp_path)
    exports, members = json.loads(said)
    declared = re.findall(r"^export (?:const|function|class) (\w+)", TYPES, re.M)
    assert sorted(declared) == sorted(exports)
    for name in set(members) - {"constructor"}:
        assert re.search(rf"^  (readonly )?{name}[(:]", TYPES, re.M), name


@pytest.mark.needs("npm", "TypeScript")
def test_types_accept_right_programs_and_no_wrong_ones(project: Path) -> None:
    flags = ("--strict", "--noEmit", "--module", "nodenext", "--target", "es2022")
    check = ("tsc", *flags, "--lib", "es2022,dom")
    (project / "good.mts").write_text(GOOD)
    lines = "\n".join(WRONG)
    (project / "wrong.mts").write_text(
        f'import {{ LabClient }} from "lab-client";\n{lines}\n'
    )
    said = ran(*check, "good.mts", "wrong.mts", cwd=project, status=2)
    assert "good.mts" not in said
    found = {int(line) for line in re.findall(r"^wrong\.mts\((\d+),", said, re.M)}
    assert found == set(range(2, 2 + len(WRONG))), said
