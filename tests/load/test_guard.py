"""Locust's page refuses other sites, and says which run cannot begin."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from labserver.load.run.origins import is_ours
from tests.support.locust_page import page_of_locust

pytestmark = pytest.mark.long


@pytest.mark.timeout(60)
async def test_page_says_in_a_sentence_which_host_it_will_not_load(
    tmp_path: Path,
) -> None:
    hosts = {
        "ws://127.0.0.1:9": "no server answers at ws://127.0.0.1:9",
        "ws://192.0.2.1": "load goes to this machine only",
        "nowhere": "'nowhere' is not a server's URL",
    }
    async with (
        page_of_locust(tmp_path) as (address, process),
        httpx.AsyncClient(timeout=30) as http,
    ):
        for host, sentence in hosts.items():
            form = {"user_count": "8", "spawn_rate": "8", "host": host}
            said = (await http.post(f"{address}/swarm", data=form)).json()
            assert said["success"] is False
            assert said["message"].startswith(sentence)
        form["publish_rate"] = "-1"
        said = (await http.post(f"{address}/swarm", data=form)).json()
        assert said["message"].startswith("publish rate")
        state = (await http.get(f"{address}/stats/requests")).json()
        assert (state["state"], state["user_count"]) == ("ready", 0)
        process.terminate()
        text = (await process.communicate())[1].decode()
    assert text.count("\nloadtests: ") == len(hosts) + 1
    assert "Traceback" not in text
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(60)
async def test_page_answers_no_other_site(tmp_path: Path) -> None:
    async with (
        page_of_locust(tmp_path) as (address, _),
        httpx.AsyncClient(timeout=30) as http,
    ):
        for origin in ("http://elsewhere.test", "null", f"{address}0"):
            for method, path in (
                ("POST", "/stop"),
                ("GET", "/"),
                ("OPTIONS", "/swarm"),
            ):
                said = await http.request(
                    method, address + path, headers={"Origin": origin}, timeout=30
                )
                assert said.status_code == 403
                assert "access-control-allow-origin" not in said.headers
        for headers in (
            {"Origin": address},
            {"Origin": "https://router.test", "Sec-Fetch-Site": "same-origin"},
            {},
        ):
            said = await http.post(f"{address}/stop", headers=headers)
            assert said.status_code == 200
            assert "access-control-allow-origin" not in said.headers
        port = address.rpartition(":")[2]
        for host in (
            "rebound.test",
            "localhost.rebound.test",
            "127.0.0.1.rebound.test",
        ):
            own = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}
            for method, path in (("POST", "/swarm"), ("GET", "/lab/runs/")):
                said = await http.request(method, address + path, headers=own)
                assert (said.status_code, said.text.count("\n")) == (403, 1)
                assert said.text.startswith("this page answers to localhost")
        for host in ("localhost", "lab.localhost", "127.0.0.1", "[::1]", "192.0.2.1"):
            own = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}
            said = await http.post(f"{address}/stop", headers=own)
            assert said.status_code == 200, host


@pytest.mark.parametrize(
    ("host", "listening", "ours"),
    [
        ("loadbox:8089", "loadbox", True),
        ("LOADBOX.", "loadbox", True),
        ("loadbox:8089", "", False),
        ("loadbox:8089", "127.0.0.1", False),
        ("[::1", "", False),
        ("", "", False),
        (None, "", False),
    ],
)
def test_page_answers_to_the_name_at_which_it_listens(
    host: str | None, listening: str, ours: bool
) -> None:
    assert is_ours(host, listening) is ours


@pytest.mark.timeout(60)
async def test_page_shows_runs_and_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    broken = folder / "20260101T000000000Z-fanout"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{}")
    (tmp_path / "run.json").write_text("{}")
    async with (
        page_of_locust(folder) as (address, _),
        httpx.AsyncClient(timeout=30) as http,
    ):
        listed = (await http.get(f"{address}/lab/runs/")).text
        assert broken.name in listed
        assert "summary.json: No such file" in listed
        said = await http.get(f"{address}/lab/runs/{broken.name}/")
        assert (said.status_code, said.headers["content-type"].partition(";")[0]) == (
            404,
            "text/plain",
        )
        for path in (
            *("<b>/", "%2e%2e/", "%2e%2e/run.json", "..%2frun.json"),
            f"{broken.name}/run.json",
        ):
            said = await http.get(f"{address}/lab/runs/{path}")
            assert said.status_code == 404, path
            assert "<b>" not in said.text
