"""The console page: its files as they are served, and the page in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextlib import closing as closed_at_the_end
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import redis as redis_client
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from labserver.client import Backoff, Client
from labserver.contract import closing
from labserver.demo.router import find_haproxy
from labserver.processes import faults
from labserver.processes.cluster import (
    Cluster,
    Replica,
    running_cluster,
    running_replica,
)
from labserver.server import routes
from tests.support.chromium import http_of, in_browser, launched, playwright

pytestmark = pytest.mark.long


def source(name: str) -> str:
    return files("labserver.server").joinpath("console", name).read_text()


# The files


KINDS = {
    "/": "text/html",
    "/console.css": "text/css",
    "/console.js": "text/javascript",
    "/lab-client.js": "text/javascript",
}


async def test_files_are_served_with_their_types_and_a_strict_policy() -> None:
    async with running_replica("echo") as replica:
        for path, kind in KINDS.items():
            await asyncio.to_thread(check_file, replica, path, kind)


def check_file(replica: Replica, path: str, kind: str) -> None:
    address = replica.url.removeprefix("ws://")
    connection = http.client.HTTPConnection(address, timeout=5)
    with closed_at_the_end(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    assert response.status == 200
    assert response.headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    policy = response.headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
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
    async with launched() as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with running_cluster(2) as cluster:
        yield cluster


class Page:
    """The console in a tab of its own, with the errors and lines that it logged."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.expect = playwright.expect
        self.complaints: list[str] = []
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", lambda line: self.complaints.append(line.text))

    async def open(self, url: str, rest: str = "/") -> None:
        await self.tab.goto(http_of(url) + rest)

    async def connect(self, url: str, token: str, user: str) -> None:
        await self.open(url)
        await self.tab.get_by_label("Token", exact=True).fill(token)
        await self.press("Connect")
        await self.shows("#status", f"Connected as {user}")

    async def press(self, button: str) -> None:
        await self.tab.get_by_role("button", name=button, exact=True).click()

    async def join(self, room: str) -> None:
        await self.tab.get_by_label("Room to join").fill(room)
        await self.press("Join")
        await self.shows("#talk-title", room)
        await self.shows("#log .notice", "Joined")

    async def publish(self, text: str) -> None:
        await self.tab.get_by_label("Message", exact=True).fill(text)
        await self.tab.keyboard.press("Enter")

    async def flood(self, size: str, time: str) -> None:
        await self.tab.get_by_label("Size of a flood's messages").select_option(size)
        await self.tab.get_by_label("How long to flood").select_option(time)
        await self.press("Flood")

    async def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until the newest of the elements contains this text."""
        place = self.tab.locator(selector).last
        await self.expect(place).to_contain_text(text, timeout=15_000)

    async def tells(self, text: str) -> None:
        """Wait until the page's story has a line with this text."""
        lines = self.tab.locator("#event-log li").filter(has_text=text)
        await self.expect(lines.first).to_be_attached(timeout=15_000)

    async def texts(self, selector: str) -> list[str]:
        texts: list[str] = await self.tab.locator(selector).all_text_contents()
        return texts


async def open_page(browser: Any, **options: Any) -> Page:
    context = await browser.new_context(**options)
    return Page(await context.new_page())


async def connected(browser: Any, replica: Replica, user: str, **options: Any) -> Page:
    page = await open_page(browser, **options)
    await page.connect(replica.url, replica.token(user), user)
    return page


def ignoring_failed_connections(complaints: Iterable[str]) -> list[str]:
    return [text for text in complaints if "net::ERR_" not in text]


OUTERMOST = """Math.max(...[...document.querySelectorAll("dd, button, input")].map(
    each => each.getBoundingClientRect().right))"""
HOSTILE = "<b>bold</b><img src=x onerror=alert(1)>"


class TestInBrowser:
    pytestmark = in_browser

    async def test_two_pages_on_two_replicas_talk(
        self, browser: Any, cluster: Cluster
    ) -> None:
        ann = await connected(browser, cluster.replicas[0], "ann")
        bob = await connected(browser, cluster.replicas[1], "bob")
        # No other test talks in this room, so its numbers begin with 1.
        await ann.join("two-pages")
        await bob.join("two-pages")
        await ann.shows("#replica", "replica-1")
        await bob.shows("#replica", "replica-2")
        await ann.publish("can you see this?")
        await bob.shows("#log .payload", "can you see this?")
        await bob.publish("I see it")
        for page in (ann, bob):
            await page.shows("#log .payload", "I see it")
            assert await page.texts("#log .payload") == [
                "can you see this?",
                "I see it",
            ]
            assert await page.texts("#log li:not(.notice) .seq") == ["#1", "#2"]
            await page.shows("#room-list .seq", "at #2 · no gap")
            await page.shows("#latency", "ms")
            await page.shows("#heartbeat", "25 s")
            await page.shows("#expiry", "in 60 min")
            await page.shows("#present", re.compile("2 here: (ann, bob|bob, ann)"))
            assert page.complaints == []
        await ann.shows("#announcer", "bob: I see it")

    async def test_nothing_that_the_server_says_is_ever_markup(
        self, browser: Any
    ) -> None:
        async with hostile_server() as url:
            page = await open_page(browser)
            await page.open(url, f"/#token=t&room={HOSTILE}")
            await page.shows("#join-problem", HOSTILE)
            await page.shows("#status", HOSTILE)
            await page.shows("#replica", HOSTILE)
            await page.tab.get_by_label("Room to join").fill("lobby")
            await page.press("Join")
            await page.shows("#connect-problem", HOSTILE)
        for place in ("#user", "#stage", "#log .from", "#log .warning"):
            await page.shows(place, HOSTILE)
        assert await page.texts("#log .payload") == [HOSTILE, json.dumps([HOSTILE])]
        await page.tells(f"answered {HOSTILE}")
        assert await page.tab.locator("b, img, main script").count() == 0
        assert page.complaints == []

    @pytest.mark.parametrize("stream", [True, False])
    async def test_page_that_was_cut_off_misses_nothing(
        self, browser: Any, cluster: Cluster, stream: bool
    ) -> None:
        room = f"broken-{stream}"
        ann, bob = await open_page(browser), await open_page(browser)
        if not stream:  # a browser with WebSocket only, which every browser has
            await bob.tab.add_init_script("delete window.WebSocketStream")
        for page, replica, user in zip(
            (ann, bob), cluster.replicas, ("ann", "bob"), strict=True
        ):
            await page.connect(replica.url, replica.token(user), user)
            await page.join(room)
        await ann.publish("before")
        await bob.shows("#log .payload", "before")
        await bob.press("Cut")
        await ann.publish("meanwhile")
        await ann.shows("#log .payload", "meanwhile")
        await bob.shows("#log .payload", "meanwhile")
        await bob.shows("#log .notice", "Back: ")
        await bob.shows("#reconnects", "1")
        assert await bob.texts("#log .payload") == ["before", "meanwhile"]
        for fact in ("lost: cut here", "drawn between 0 and 0.5 s", "Back on"):
            await bob.tells(fact)
        hint = "has no WebSocketStream"
        assert (hint in (await bob.texts("#slow-hint"))[0]) is not stream
        assert bob.complaints == []

    async def test_page_goes_on_elsewhere_when_its_replica_is_killed(
        self, browser: Any
    ) -> None:
        async with running_cluster(2) as cluster, router(cluster.replicas) as url:
            page = await open_page(browser)
            await page.connect(url, cluster.replicas[0].token("ann"), "ann")
            await page.join("lobby")
            names = ["replica-1", "replica-2"]
            here = names.index((await page.texts("#replica"))[0])
            there = cluster.replicas[1 - here]
            async with Client(there.url, there.token("bob")) as bob:
                await bob.publish("lobby", "before")
                await page.shows("#log .payload", "before")
                await cluster.replicas[here].stop(signal.SIGKILL)
                for number in range(20):
                    await bob.publish("lobby", f"during {number}")
                await page.shows("#replica", names[1 - here])
                await page.tells(f"Back on {names[1 - here]}")
                await page.shows("#log .payload", "during 19")
                await bob.publish("lobby", "after")
                await page.shows("#log .payload", "after")
        assert await page.texts("#log .payload") == [
            "before",
            *(f"during {number}" for number in range(20)),
            "after",
        ]
        await page.shows("#missing", "0")
        assert ignoring_failed_connections(page.complaints) == []

    async def test_slow_reader_is_told_when_it_is_closed(
        self, browser: Any, redis_url: str
    ) -> None:
        policy = "disconnect"
        async with slow_link(policy, redis_url) as replica:
            page = await connected(browser, replica, "ann")
            await page.join(f"slow-{policy}")
            await flood_slow_page(page, replica, f"slow-{policy}")
            await page.tells("4409 too slow")
            await page.shows("#status", "Connected as ann")
            await page.tells("Reads at full speed again")
            await page.shows("#room-list .seq", f"at #{FLOOD}")
            assert page.complaints == []

    async def test_slow_reader_is_told_what_was_dropped(
        self, browser: Any, redis_url: str
    ) -> None:
        policy = "drop-oldest"
        async with slow_link(policy, redis_url) as replica:
            page = await connected(browser, replica, "ann")
            await page.join(f"slow-{policy}")
            await flood_slow_page(page, replica, f"slow-{policy}")
            await page.tells("a gap, #")
            await page.press("Go slow")
            told = re.compile(rf"at #{FLOOD} · \d+ missing")
            await page.shows("#room-list .seq", told)
            await page.tells("did not read fast enough")
            missing = int((await page.texts("#missing"))[0])
            await page.shows("#reconnects", "0")
            assert 0 < missing < FLOOD
            assert page.complaints == []

    async def test_flood_obeys_the_rate_limit_and_is_not_read_out(
        self, browser: Any, redis_url: str
    ) -> None:
        async with rate_limited(redis_url) as replica:
            page = await connected(browser, replica, "ann")
            other = await connected(browser, replica, "bob")
            await page.join("flood")
            await other.join("flood")
            await other.tab.evaluate(COUNT_ANNOUNCEMENTS)
            await page.flood(size="100", time="3")
            await page.tells("The flood is over")
            [result] = await page.texts("#flood-hint")
            figures = re.findall(r"\d[\d,]*", result)
            acks, sent, _, limited = (int(each.replace(",", "")) for each in figures)
            assert 0 < acks <= sent
            assert limited > 0
            await page.shows("#reconnects", "0")
            await other.shows("#announcer", re.compile(r"\d+ messages, the last from"))
            assert await other.tab.evaluate("announcements") <= 2
            log = other.tab.get_by_role("log")
            assert await log.get_attribute("aria-live") == "off"

    async def test_flood_that_does_not_obey_is_closed_and_told(
        self, browser: Any, redis_url: str
    ) -> None:
        async with rate_limited(redis_url) as replica:
            page = await connected(browser, replica, "ann")
            await page.join("flood")
            await page.tab.get_by_label("pause when told").uncheck()
            await page.flood(size="100", time="3")
            await page.tells("4429 rate limited")
            await page.tells("The flood is over")
            await page.tells("Back on")
            await page.shows("#room-list .seq", "no gap")

    async def test_link_connects_and_its_token_leaves_the_address(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        token = replica.token("eve")
        page = await open_page(browser)
        for mark in "#?":
            await page.open(replica.url, f"/{mark}token={token}&room=team:a")
            await page.shows("#status", "Connected as eve")
            await page.shows("#log .notice", "Joined")
            assert page.tab.url == f"{http_of(replica.url)}/"
        kept = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert await page.tab.evaluate(kept) == [0, 0, ""]
        assert token not in await page.tab.content()
        field = page.tab.get_by_label("Token", exact=True)
        assert await field.get_attribute("type") == "password"
        await page.press("Show the token")
        assert await field.get_attribute("type") == "text"

    async def test_refused_token_is_told_and_not_tried_for_ever(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        await page.open(replica.url, "/#token=nonsense")
        await page.shows("#status", "A new token is needed")
        await page.shows("#connect-problem", "refuses this token")
        # With a valid token, the page resumes its rooms.
        await page.connect(replica.url, replica.token("ann"), "ann")
        await page.join("lobby")

    async def test_failed_handshake_is_explained_by_the_server(
        self, browser: Any
    ) -> None:
        async with running_cluster(1) as cluster:
            replica = cluster.replicas[0]
            page = await open_page(browser)
            await page.open(replica.url, "/#token=nonsense")
            await page.tells("No connection (refused with 401")
            await page.shows("#status", "A new token is needed")
            assert "no server" not in " ".join(await page.texts("#event-log")).lower()
            await page.connect(replica.url, replica.token("ann"), "ann")
            await replica.stop(signal.SIGKILL)
            await page.tells("No connection (no server answered)")

    async def test_new_epoch_is_not_told_as_too_old(
        self, browser: Any, redis: redis_client.Redis, redis_url: str
    ) -> None:
        environment = {"LAB_REDIS_URL": redis_url}
        async with running_replica(environment=environment) as replica:
            page = await connected(browser, replica, "ann")
            await page.join("lobby")
            await page.publish("hello")
            await page.shows("#log .payload", "hello")
            redis.flushall()
            await page.press("Cut")
            await page.tells("another epoch")
            await page.shows("#missing", "unknown")
            await page.shows("#room-list .seq", "unknown missing")
            assert "too old" not in " ".join(await page.texts("#event-log"))

    async def test_expired_token_ends_it_until_a_new_one_comes(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        await page.connect(replica.url, replica.token("ann"), "ann")
        await page.join("expiry")
        token = page.tab.get_by_label("Token", exact=True)
        await token.fill(replica.token("ann", ttl=4))
        await page.press("Use new token")
        await page.shows("#status", "A new token is needed")
        await page.tells("4401")
        await page.shows("#connect-problem", "Paste another token")
        await page.tab.get_by_label("Token", exact=True).fill(replica.token("ann"))
        await page.press("Connect")
        await page.shows("#log .notice", "Back: nothing missed.")

    async def test_token_is_replaced_without_a_reconnect(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        await page.connect(replica.url, replica.token("ann", ttl=100), "ann")
        await page.shows("#expiry", re.compile(r"in \d+ s"))
        await page.tab.get_by_label("Token", exact=True).fill(replica.token("ann"))
        await page.press("Use new token")
        await page.tells("The token was replaced")
        await page.shows("#expiry", "in 60 min")
        await page.shows("#reconnects", "0")

    async def test_forbidden_room_is_told(self, browser: Any, cluster: Cluster) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        token = replica.token("ann", rooms=["team:*"])
        await page.open(replica.url, f"/#token={token}&room=lobby")
        await page.shows("#join-problem", "lobby: ")
        assert await page.texts("#room-list .name") == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_page_fits_a_phone_and_can_be_read(
        self, browser: Any, cluster: Cluster, scheme: str
    ) -> None:
        phone = {"width": 360, "height": 740}
        page = await open_page(browser, viewport=phone, color_scheme=scheme)
        replica = cluster.replicas[0]
        await page.open(replica.url)
        unread = await page.tab.evaluate(UNREADABLE)
        name = "n" * 100
        await page.connect(replica.url, replica.token(name), name)
        await page.join("a" * 64)
        await page.publish("w" * 400)
        await page.shows("#log .payload", "w")
        await page.publish("again")
        await page.press("Cut")
        await page.tells("Back on")
        for width in (320, 360, 768, 900):
            await page.tab.set_viewport_size({"width": width, "height": 740})
            scrolled = "document.documentElement.scrollWidth"
            assert await page.tab.evaluate(scrolled) <= width
            assert await page.tab.evaluate(OUTERMOST) <= width
        assert unread + await page.tab.evaluate(UNREADABLE) == []
        assert await page.tab.evaluate(UNNAMED) == []
        assert await page.tab.evaluate(TOO_SMALL) == []

    async def test_headings_and_landmarks_make_an_outline(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page = await open_page(browser)
        await page.open(cluster.replicas[0].url)
        levels = "[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
        outline = await page.tab.evaluate(levels)
        assert outline[0] == 1
        assert outline.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(outline, outline[1:], strict=False))
        for role in ("banner", "main"):
            await page.expect(page.tab.get_by_role(role)).to_have_count(1)
        ids = "[...document.querySelectorAll('[id]')].map(each => each.id)"
        found = await page.tab.evaluate(ids)
        assert len(found) == len(set(found))
        assert await page.tab.evaluate("document.documentElement.lang") == "en"

    async def test_page_works_from_the_keyboard(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page = await open_page(browser)
        await page.open(cluster.replicas[0].url)
        keyboard = page.tab.keyboard
        await keyboard.press("Tab")
        await keyboard.insert_text(cluster.replicas[0].token("ann"))
        await keyboard.press("Enter")
        await page.shows("#status", "Connected as ann")
        await page.expect(page.tab.get_by_label("Room to join")).to_be_focused()
        await keyboard.press("Enter")
        await page.shows("#log .notice", "Joined")
        await page.expect(page.tab.get_by_label("Message", exact=True)).to_be_focused()
        await keyboard.insert_text("no mouse")
        await keyboard.press("Enter")
        await page.shows("#log .payload", "no mouse")
        cut = page.tab.get_by_role("button", name="Cut", exact=True)
        for _ in range(10):
            await keyboard.press("Tab")
            style = "getComputedStyle(document.activeElement).outlineStyle"
            assert await page.tab.evaluate(style) == "solid"
            if await cut.evaluate("cut => cut === document.activeElement"):
                break
        await keyboard.press("Space")
        await page.tells("Back on")
        await page.expect(cut).to_be_focused()

    async def test_nothing_moves_when_something_comes_in(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page = await open_page(browser)
        replica = cluster.replicas[0]
        await page.connect(replica.url, replica.token("ann"), "ann")
        await page.join("still")
        async with Client(replica.url, replica.token("bob")) as bob:
            for number in range(30):
                await bob.publish("still", f"message {number}")
            await page.shows("#log .payload", "message 29")
        await page.press("Cut")
        await page.tells("Back on")
        assert await page.tab.evaluate(SHIFTS) < 0.01

    async def test_newest_message_stays_in_sight_when_a_phone_is_turned(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page = await open_page(browser)
        replica = cluster.replicas[0]
        await page.connect(replica.url, replica.token("ann"), "ann")
        await page.join("turned")
        async with Client(replica.url, replica.token("bob")) as bob:
            for number in range(30):
                await bob.publish("turned", f"{number} " + 30 * "words ")
            await page.shows("#log .payload", "29 words")
            await page.tab.set_viewport_size({"width": 390, "height": 844})
            await page.tab.wait_for_function(AT_END)
            await bob.publish("turned", "the last")
            await page.shows("#log .payload", "the last")
            await page.tab.wait_for_function(AT_END)
            # Who reads older ones is left there.
            await page.tab.evaluate("document.querySelector('#log').scrollTop = 9")
            await bob.publish("turned", "unseen")
            await page.shows("#log .payload", "unseen")
            await page.tab.set_viewport_size({"width": 844, "height": 390})
            assert not await page.tab.evaluate(AT_END)

    # lab-client.js by itself

    async def test_browser_client_is_a_twin_of_the_python_client(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page = await open_page(browser)
        await page.open(cluster.replicas[0].url)
        reasons = ["retry_after_ms=250", "draining retry_after_ms=99999999", "x", ""]
        reasons += ["retry_after_ms=", "a retry_after_ms=7 b", "retry_after_ms=-1"]
        codes = [*range(1000, 1016), *range(3990, 5000)]
        draws = [0.0, 0.25, 0.999, 0.5, 1.0, 0.1, 0.9, 0.7]
        there = await page.tab.evaluate(
            """async ({ reasons, codes, draws }) => {
                const client = await import("/lab-client.js");
                const { Backoff, comesBack, retryAfter } = client;
                const backoff = new Backoff();
                const waits = draws.map((draw) => backoff.next(() => draw));
                backoff.lasted(9_999);
                waits.push(backoff.next(() => 1));
                backoff.lasted(10_000);
                waits.push(backoff.next(() => 1));
                return [waits, codes.map(comesBack), reasons.map(retryAfter)];
            }""",
            {"reasons": reasons, "codes": codes, "draws": draws},
        )
        backoff = Backoff()
        waits = [backoff.next(lambda draw=draw: draw) for draw in draws]
        backoff.lasted(9.999)
        waits.append(backoff.next(lambda: 1))
        backoff.lasted(10.0)
        waits.append(backoff.next(lambda: 1))
        asked = [closing.retry_after(reason) for reason in reasons]
        assert there == [
            pytest.approx([1000 * wait for wait in waits]),
            [closing.comes_back(code).value for code in codes],
            [None if wait is None else 1000 * wait for wait in asked],
        ]

    async def test_browser_client_takes_the_next_address_when_one_fails(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        await page.open(replica.url)
        hello, connects = await page.tab.evaluate(
            CLIENT
            + """
            const client = new LabClient(["ws://127.0.0.1:1/", url], {
                token: () => token,
                backoff: new Backoff({ first: 10 }),
            });
            client.start();
            await client.join("alone");
            client.stop();
            return [client.hello, client.connects];
            }""",
            {"url": replica.url, "token": replica.token("ann")},
        )
        assert (hello["user"], connects) == ("ann", 1)

    @pytest.mark.parametrize("stream", [True, False])
    async def test_browser_client_gives_up_a_silent_connection(
        self, browser: Any, cluster: Cluster, stream: bool
    ) -> None:
        replica = cluster.replicas[0]
        host, _, port = replica.url.removeprefix("ws://").partition(":")
        async with faults.proxy(host, int(port)) as proxy:
            page = await open_page(browser)
            await page.open(proxy.url)
            states = CLIENT + (
                """
                window.client = new LabClient(url, {
                    token: () => token,
                    stream,
                    pingInterval: 50,
                    pingTimeout: 1_000,
                    backoff: new Backoff({ first: 10, cap: 50 }),
                });
                window.states = [];
                client.addEventListener("state", ({ detail }) => {
                    states.push(detail.reason ?? detail.state);
                });
                client.start();
                client.join("quiet").catch(() => {});
                }"""
            )
            told = {"url": proxy.url, "token": replica.token("ann"), "stream": stream}
            await page.tab.evaluate(states, told)
            await page.tab.evaluate(UNTIL_STATES, ["open", 1])
            proxy.freeze()
            await page.tab.evaluate("states.length = 0")
            async with asyncio.timeout(10):
                await page.tab.evaluate(UNTIL_STATES, ["silence", 1])
            proxy.thaw()
            async with asyncio.timeout(10):
                await page.tab.evaluate(UNTIL_STATES, ["open", 1])
            await page.tab.evaluate("client.stop()")

    async def test_client_sees_who_is_here_and_again_after_a_cut(
        self, browser: Any, cluster: Cluster
    ) -> None:
        page, replica = await open_page(browser), cluster.replicas[0]
        await page.open(replica.url)
        asked = [replica.url, replica.token("ann")]
        first, again = await page.tab.evaluate(PEOPLE, asked)
        assert [each["user"] for each in (*first, *again)] == ["ann", "ann"]
        assert first != again  # another connection
        assert page.complaints == []

    async def test_publish_that_was_cut_off_arrives_once(
        self, browser: Any, cluster: Cluster
    ) -> None:
        replica = cluster.replicas[0]
        page = await open_page(browser)
        await page.open(replica.url)
        heard = await page.tab.evaluate(
            CLIENT
            + """
            const client = new LabClient(url, {
                token: () => token,
                backoff: new Backoff({ first: 10 }),
            });
            const heard = [];
            client.addEventListener("message", ({ detail }) => {
                heard.push(detail.payload);
            });
            client.start();
            await client.join("once");
            for (let number = 0; number < 10; number += 1) {
                const sent = client.publish("once", number);
                if (number % 2) setTimeout(() => client.cut());
                await sent;
            }
            await client.publish("once", "end");
            const tick = () => new Promise((go) => setTimeout(go, 10));
            while (heard.at(-1) !== "end") await tick();
            client.stop();
            return heard;
            }""",
            {"url": replica.url, "token": replica.token("ann")},
        )
        assert heard == [*range(10), "end"]


CLIENT = """async ({ url, token, stream }) => {
    const { Backoff, LabClient } = await import("/lab-client.js");
"""

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

UNTIL_STATES = """async ([state, times]) => {
    const enough = () => states.filter((each) => each === state).length >= times;
    while (!enough()) await new Promise((go) => setTimeout(go, 10));
}"""

COUNT_ANNOUNCEMENTS = """() => {
    window.announcements = 0;
    const count = () => (window.announcements += 1);
    const announcer = document.getElementById("announcer");
    new MutationObserver(count).observe(announcer, { childList: true });
}"""

# Text whose contrast to its background is below 4.5 (WCAG 2.2, 1.4.3).
UNREADABLE = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = channels(color).map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const color = getComputedStyle(each).backgroundColor;
            if (channels(color)[3] !== 0) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const found = [];
    const check = (element, color, what) => {
        const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < 4.5) found.push(`${what}: ${contrast.toFixed(2)}`);
    };
    for (const element of document.querySelectorAll("body *")) {
        if (!element.checkVisibility()) continue;
        const own = [...element.childNodes].some(
            (node) => node.nodeType === 3 && node.data.trim(),
        );
        const { color } = getComputedStyle(element);
        const what = `${element.tagName} ${element.id || element.className}`;
        if (own || element.value) check(element, color, what);
        if (element.placeholder) {
            check(element, getComputedStyle(element, "::placeholder").color, what);
        }
    }
    return found;
}"""

UNNAMED = """() =>
    [...document.querySelectorAll("input, select, button, [tabindex]")]
        .filter((each) => {
            const by = each.getAttribute("aria-labelledby");
            const text = (document.getElementById(by) ?? each).textContent;
            const labels = [...(each.labels ?? [])].map((label) => label.textContent);
            const own = each.tagName === "SELECT" ? "" : text;
            return !(labels.join("") || each.getAttribute("aria-label") || own).trim();
        })
        .map((each) => each.outerHTML)"""

# Targets too small for a finger (WCAG 2.2, 2.5.8); a label counts with its checkbox.
TOO_SMALL = """() =>
    [...document.querySelectorAll("input, select, button")]
        .map((each) => each.closest("label") ?? each)
        .filter((each) => each.getBoundingClientRect().height < 24)
        .map((each) => each.outerHTML)"""

AT_END = """() => {
  const log = document.querySelector("#log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}"""
SHIFTS = """() => new Promise((done) => {
    let sum = 0;
    const add = (entries) => entries.forEach(({ value }) => (sum += value));
    const observer = new PerformanceObserver((list) => add(list.getEntries()));
    observer.observe({ type: "layout-shift", buffered: true });
    requestAnimationFrame(() => setTimeout(() => {
        add(observer.takeRecords());
        done(sum);
    }));
})"""

FLOOD = 300  # messages


def slow_link(policy: str, redis: str) -> Any:
    """A server with small buffers, which notices soon when a page does not read."""
    limits = ("--send-buffer", "16384", "--outbox-limit", "65536")
    return running_replica(
        "resume",
        *limits,
        *("--outbox-policy", policy),
        environment={"LAB_REDIS_URL": redis},
    )


def rate_limited(redis: str) -> Any:
    return running_replica(
        "resume",
        *("--message-rate-limit", "20"),
        environment={"LAB_REDIS_URL": redis},
    )


async def flood_slow_page(page: Page, replica: Replica, room: str) -> None:
    """Publish more than the network holds while the page reads 50 messages a second."""
    await page.tab.get_by_label("How slowly to read").select_option("50")
    await page.press("Go slow")
    await page.tells("Reads 50 messages a second")
    async with Client(replica.url, replica.token("bob")) as bob:
        for _ in range(FLOOD // 10):
            # Text that deflate shrinks would take long to fill the network.
            noise = [secrets.token_urlsafe(6000) for _ in range(10)]
            await asyncio.gather(*(bob.publish(room, each) for each in noise))


@asynccontextmanager
async def hostile_server() -> AsyncIterator[str]:
    """A server that sends markup wherever the contract has a string."""
    status = SimpleNamespace(unready=lambda: None, metrics_page=lambda: b"")

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if routes.wants_upgrade(request):
            return None
        return routes.answer(status, request)

    async def converse(connection: ServerConnection) -> None:
        async def say(**message: Any) -> None:
            await connection.send(json.dumps(message))

        who = dict.fromkeys(("id", "user", "stage", "replica"), HOSTILE)
        await say(type="hello", heartbeat=None, **who)
        try:
            async for data in connection:
                message = json.loads(data)
                if message["type"] != "join":
                    continue
                room = {"room": message["room"]}
                entered = {"epoch": HOSTILE, "seq": 0, "recovered": False}
                await say(type="joined", **room, **entered, ref=message["ref"])
                for seq, payload in enumerate([HOSTILE, [HOSTILE]], start=1):
                    said = {"seq": seq, "from": HOSTILE, "payload": payload}
                    await say(type="message", **room, **said)
                lost = {"from": 3, "to": 4, "reason": HOSTILE}
                await say(type="gap", **room, **lost)
                here = [{"id": HOSTILE, "user": HOSTILE}]
                await say(type="present", **room, count=1, clients=here)
                await say(type="error", code=HOSTILE, detail=HOSTILE)
                await connection.close(4403, HOSTILE)
        except ConnectionClosed:
            pass

    async with serve(
        converse,
        "127.0.0.1",
        0,
        process_request=answer,
        subprotocols=["lab.json"],  # type: ignore[list-item]
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


@asynccontextmanager
async def router(replicas: Iterable[Replica]) -> AsyncIterator[str]:
    """A router before replicas, on one port, which does what haproxy.cfg does."""
    haproxy = find_haproxy()
    assert haproxy is not None
    servers = "\n".join(
        f"  server s{number} {replica.url.removeprefix('ws://')}"
        for number, replica in enumerate(replicas)
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        tempfile.NamedTemporaryFile("w") as file,
    ):
        fd = listening.fileno()
        file.write(f"""
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1m
frontend public
  bind fd@{fd}
  default_backend replicas
backend replicas
  balance leastconn
  option httpchk GET /readyz
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response 503
  default-server check inter 100ms fall 1 rise 1
{servers}
""")
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *(haproxy, "-db", "-f", file.name),
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=(fd,),
        )
        try:
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            process.kill()
            await process.wait()
