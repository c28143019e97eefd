"""The console page: how it is served, and what it does in a real browser."""

from __future__ import annotations

import http.client
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import closing as closed_at_the_end
from importlib.resources import files
from typing import Any

import pytest
import pytest_asyncio

from labserver import closing
from labserver.cluster import Cluster, Replica, running_cluster, running_replica

try:
    from playwright import async_api as playwright
except ImportError:
    playwright = None

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
in_browser = [
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(playwright is None, reason="PAGE WAS NOT RUN: no playwright"),
    pytest.mark.skipif(CHROMIUM is None, reason="PAGE WAS NOT RUN: no Chromium"),
]


def source(name: str) -> str:
    return files("labserver").joinpath("console", name).read_text()


# Served


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/console.css", "text/css"),
        ("/console.js", "text/javascript"),
        ("/lab-client.js", "text/javascript"),
    ],
)
async def test_file_is_served_with_its_type_and_a_strict_policy(
    path: str, kind: str
) -> None:
    async with running_replica("echo") as replica:
        address = replica.url.removeprefix("ws://")
        connection = http.client.HTTPConnection(address, timeout=5)
        with closed_at_the_end(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
    assert response.status == 200
    assert response.headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert body == source("index.html" if path == "/" else path[1:])


def test_page_has_nothing_inline_and_loads_from_its_own_server() -> None:
    page = source("index.html")
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page) == []
    assert all(
        address.startswith(("/", "data:"))
        for address in re.findall(r'(?:src|href)="([^"]*)"', page)
    )


@pytest.mark.parametrize("name", ["console.js", "lab-client.js"])
def test_script_never_makes_markup_of_text(name: str) -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\("
    assert re.findall(ways, source(name)) == []


def test_browser_client_knows_the_servers_close_codes() -> None:
    table = re.findall(r'\[(\d{4}), "(\w+)"\]', source("lab-client.js"))
    known = {int(code): comes_back for code, comes_back in table}
    assert known == {
        code: close.comes_back.value for code, close in closing.CLOSES.items()
    }


# In a browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with running_cluster(2) as cluster:
        yield cluster


class Page:
    """The console in a tab of its own, with what it complained about."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.expect = playwright.expect
        self.complaints: list[str] = []
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", lambda line: self.complaints.append(line.text))

    async def connect(self, replica: Replica, user: str) -> None:
        await self.tab.goto(replica.url.replace("ws://", "http://", 1))
        await self.tab.get_by_label("Token").fill(replica.token(user))
        await self.tab.get_by_role("button", name="Connect", exact=True).click()
        await self.shows("#status", f"Connected as {user}")

    async def join(self, room: str) -> None:
        await self.tab.get_by_label("Room to join").fill(room)
        await self.tab.get_by_role("button", name="Join").click()
        await self.shows("#talk-title", room)
        await self.shows("#log .notice", "Joined")

    async def publish(self, text: str) -> None:
        await self.tab.get_by_label("Message", exact=True).fill(text)
        await self.tab.keyboard.press("Enter")

    async def shows(self, selector: str, text: str) -> None:
        """Wait until the newest of the elements has this text in it."""
        place = self.tab.locator(selector).last
        await self.expect(place).to_contain_text(text, timeout=15_000)

    async def texts(self, selector: str) -> list[str]:
        texts: list[str] = await self.tab.locator(selector).all_text_contents()
        return texts


async def open_page(browser: Any, **options: Any) -> Page:
    context = await browser.new_context(**options)
    return Page(await context.new_page())


class TestInBrowser:
    pytestmark = in_browser

    async def test_two_pages_on_two_replicas_talk_and_markup_stays_text(
        self, browser: Any, cluster: Cluster
    ) -> None:
        ann, bob = await open_page(browser), await open_page(browser)
        await ann.connect(cluster.replicas[0], "ann")
        await bob.connect(cluster.replicas[1], "bob")
        await ann.join("lobby")
        await bob.join("lobby")
        await ann.shows("#replica", "replica-1")
        await bob.shows("#replica", "replica-2")
        hostile = "<b>bold</b><img src=x onerror=alert(1)>"
        await ann.publish(hostile)
        await bob.shows("#log .payload", hostile)
        await bob.publish("I see it")
        for page in (ann, bob):
            await page.shows("#log .payload", "I see it")
            assert await page.texts("#log .payload") == [hostile, "I see it"]
            assert await page.texts("#log li:not(.notice) .seq") == ["#1", "#2"]
            assert await page.tab.locator("#log b, #log img").count() == 0
            await page.shows("#latency", "ms")
            assert page.complaints == []

    async def test_page_that_was_cut_off_misses_nothing(
        self, browser: Any, cluster: Cluster
    ) -> None:
        ann, bob = await open_page(browser), await open_page(browser)
        await ann.connect(cluster.replicas[0], "ann")
        await bob.connect(cluster.replicas[1], "bob")
        await ann.join("broken")
        await bob.join("broken")
        await ann.publish("before")
        await bob.shows("#log .payload", "before")
        await bob.tab.get_by_role("button", name="Cut").click()
        await ann.publish("meanwhile")
        await ann.shows("#log .payload", "meanwhile")
        await bob.shows("#log .payload", "meanwhile")
        await bob.shows("#log .notice", "Back: ")
        await bob.shows("#reconnects", "1")
        assert await bob.texts("#log .payload") == ["before", "meanwhile"]
        assert bob.complaints == []

    async def test_link_connects_and_its_token_leaves_the_address(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        token = replica.token("eve")
        page = await open_page(browser)
        url = replica.url.replace("ws://", "http://", 1)
        await page.tab.goto(f"{url}/#token={token}&room=team:a")
        await page.shows("#status", "Connected as eve")
        await page.shows("#log .notice", "Joined")
        assert page.tab.url == f"{url}/"
        kept = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert await page.tab.evaluate(kept) == [0, 0, ""]
        assert token not in await page.tab.content()

    async def test_refused_token_is_told_and_not_tried_for_ever(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        url = replica.url.replace("ws://", "http://", 1)
        await page.tab.goto(f"{url}/#token=nonsense")
        await page.shows("#status", "A new token is needed")
        await page.shows("#connect-problem", "refuses this token")
        # The rooms, and a better token, continue where that ended.
        await page.connect(replica, "ann")
        await page.join("lobby")

    async def test_expired_token_ends_it_until_a_new_one_comes(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        url = replica.url.replace("ws://", "http://", 1)
        await page.tab.goto(f"{url}/#token={replica.token('ann', ttl=3)}&room=expiry")
        await page.shows("#log .notice", "Joined")
        await page.shows("#status", "A new token is needed")
        await page.shows("#event-log li", "4401")
        await page.tab.get_by_label("Token").fill(replica.token("ann"))
        await page.tab.get_by_role("button", name="Connect", exact=True).click()
        await page.shows("#log .notice", "Back: nothing was missed.")

    async def test_forbidden_room_is_told(self, browser: Any, cluster: Cluster) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        url = replica.url.replace("ws://", "http://", 1)
        token = replica.token("ann", rooms=["team:*"])
        await page.tab.goto(f"{url}/#token={token}&room=lobby")
        await page.shows("#join-problem", "lobby: ")
        assert await page.texts("#room-list .name") == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_page_fits_a_phone(
        self, browser: Any, cluster: Cluster, scheme: str
    ) -> None:
        phone = {"width": 360, "height": 740}
        page = await open_page(browser, viewport=phone, color_scheme=scheme)
        await page.connect(cluster.replicas[0], "ann")
        await page.join("a" * 64)
        await page.publish("w" * 400)
        await page.shows("#log .payload", "w")
        width = await page.tab.evaluate("document.documentElement.scrollWidth")
        assert width <= 360

    async def test_page_works_from_the_keyboard(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page = await open_page(browser)
        await page.tab.goto(cluster.replicas[0].url.replace("ws://", "http://", 1))
        keyboard = page.tab.keyboard
        await keyboard.press("Tab")
        await keyboard.insert_text(cluster.replicas[0].token("ann"))
        await keyboard.press("Enter")
        await page.shows("#status", "Connected as ann")
        for _ in range(3):  # Cut, Disconnect, then the room
            await keyboard.press("Tab")
        await keyboard.press("Enter")
        await page.shows("#talk-title", "lobby")
        await page.shows("#log .notice", "Joined")

    async def test_client_sees_who_is_here_and_again_after_a_cut(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page, replica = await open_page(browser), cluster.replicas[0]
        await page.tab.goto(replica.url.replace("ws://", "http://", 1))
        asked = [replica.url, replica.token("ann")]
        first, again = await page.tab.evaluate(PEOPLE, asked)
        assert [each["user"] for each in (*first, *again)] == ["ann", "ann"]
        assert first != again  # another connection
        assert page.complaints == []


PEOPLE = """async ([url, token]) => {
  const { LabClient, Backoff } = await import("/lab-client.js");
  const backoff = new Backoff({ first: 0, cap: 0 });
  const client = new LabClient(url, { token: () => token, backoff });
  const told = [];
  const over = new Promise((resolve) => {
    client.addEventListener("present", ({ detail }) => {
      told.push(detail.clients);
      if (told.length === 2) resolve();
      else client.cut();
    });
  });
  client.start();
  await client.join("people", null, { presence: true });
  await over;
  client.stop();
  return told;
}"""
