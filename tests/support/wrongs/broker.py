"""Wrong solutions of chapter 6, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

PUBLISH = """
        stored = self.loop.create_future()
        self.calls.put_nowait((stored, room, tail))
        return stored
"""

HEARD = """
        return Position(*self.places[room])
"""

# Numbers in one command, publishes in another.
IN_TWO = (
    (
        "redis.call('PUBLISH', KEYS[1], epoch .. ' ' .. seq .. ' ' .. ARGV[2])\n",
        "",
    ),
    ("return seq\n", "return {epoch, seq}\n"),
    (
        """
                for seq in await pipe.execute():
                    calls.pop(0)[0].set_result(seq)
""",
        """
                for epoch, seq in await pipe.execute():
                    stored, room, tail = calls.pop(0)
                    data = b"%b %d %b" % (epoch, seq, tail)
                    await self.redis.publish(channel_of(room), data)
                    stored.set_result(seq)
""",
    ),
)

SAID = "pipe.eval(SAY, 1, channel_of(room), secrets.token_hex(4), tail)"

LISTENS = """
                    for room in list(self.rooms):
                        await link.subscribe(channel_of(room))
"""

GAP = 'self.hub.deliver(room, gap(room, last + 1, before, "broker"))'

ASKS = 'await self.publish(room, b"")'

# Listens to all rooms by a pattern.
PATTERN = (
    (
        LISTENS,
        """
                    await link.psubscribe(channel_of("*"))
                    for room in list(self.rooms):
                        self.publish(room, b"")
""",
    ),
    ("await self.link.subscribe(channel_of(room))", 'self.publish(room, b"")'),
    (f"                            {ASKS}", "                            pass"),
    ('said["type"] == "subscribe"', "room not in self.rooms"),
)

# One channel for all rooms.
ONE_CHANNEL = (
    (
        SAID,
        """pipe.eval(SAY.replace("'PUBLISH', KEYS[1], epoch", "'PUBLISH', 'all', "
                    "KEYS[1] .. ' ' .. epoch"), 1, channel_of(room), "e", tail)""",
    ),
    (
        LISTENS,
        """
                    await link.subscribe("all")
                    for room in list(self.rooms):
                        self.publish(room, b"")
""",
    ),
    ("await self.link.subscribe(channel_of(room))", 'self.publish(room, b"")'),
    (f"                            {ASKS}", "                            continue"),
    (
        'self.heard(room, *said["data"].split(b" ", 2))',
        """name, *rest = said["data"].split(b" ", 3)
                            room = name.decode()[5:-1]
                            if room in self.rooms:
                                self.heard(room, *rest)""",
    ),
)

# Delivers what its own clients say at once, and ignores it when it comes back.
AT_ONCE = """
class MyBroker(MyBroker):
    def publish(self, room, tail, *about):
        if tail and room in self.rooms:
            self.own = [*getattr(self, "own", []), tail]
            self.next(room, tail)
        return super().publish(room, tail, *about)

    def next(self, room, tail):
        epoch, seq = self.places[room]
        self.places[room] = epoch, seq + 1
        self.hub.deliver(room, event(room, seq + 1, tail))

    def heard(self, room, name, number, tail):
        if tail in getattr(self, "own", []):
            self.own.remove(tail)
        elif tail and room in self.places:
            self.next(room, tail)
        else:
            super().heard(room, name, number, tail)
"""

# Leaves a room as soon as it is empty, without a second look.
LEAVES = """
class MyBroker(MyBroker):
    def unsubscribe(self, room):
        if room not in self.hub.rooms:
            self.loop.call_later(0.02, self.let_go, room)

    def let_go(self, room):
        if self.rooms.pop(room, None):
            self.leaving = asyncio.create_task(self.leave(room))

    async def leave(self, room):
        await self.link.execute_command("UNSUBSCRIBE", channel_of(room))
"""

WRONGS: tuple[Wrong, ...] = (
    Wrong(
        "a connection for each call",
        "messages of one client",
        (
            (
                PUBLISH,
                f"""
        return asyncio.ensure_future(self.say(room, tail))

    async def say(self, room, tail):
        pipe = self.redis
        return await {SAID}
""",
            ),
        ),
        before=True,
    ),
    Wrong(
        "a round trip for each message",
        "each message makes",
        (("await self.batch()", "[await self.calls.get()]"),),
        before=True,
    ),
    Wrong(
        "a join that does not wait",
        "the position of a room",
        (("await asyncio.wait_for(asyncio.shield(self.rooms[room]), 2)", "pass"),),
    ),
    Wrong(
        "sends without a net",
        "the task that sends",
        (
            (
                "(RedisError, OSError) as exc:\n                for",
                "KeyError as exc:\n                for",
            ),
        ),
    ),
    Wrong(
        "hears without a net",
        "the task that hears",
        (("except (RedisError, OSError, BrokerDown):", "except KeyError:"),),
    ),
    Wrong(
        "asks once",
        "the task that hears",
        ((", BrokerDown):", "):"),),
    ),
    Wrong(
        "a count for each process",
        "each replica counts",
        (
            (
                SAID,
                """self.counts = getattr(self, "counts", {})
                seq = self.counts[room] = self.counts.get(room, 0) + bool(tail)
                pipe.publish(channel_of(room), b"e %d %b" % (seq, tail))""",
            ),
            (
                "calls.pop(0)[0].set_result(seq)",
                "stored, room, _ = calls.pop(0)\n"
                "                    stored.set_result(self.counts[room])",
            ),
        ),
    ),
    Wrong(
        "delivered twice",
        "the publisher's replica",
        (
            (
                "calls.pop(0)[0].set_result(seq)",
                """stored, room, tail = calls.pop(0)
                    stored.set_result(seq)
                    if tail:
                        self.hub.deliver(room, event(room, seq, tail))""",
            ),
        ),
    ),
    Wrong("delivered at once", "each replica delivers", more=AT_ONCE),
    Wrong("two commands", "two replicas number", IN_TWO),
    Wrong("one channel", "no replica has subscribed", ONE_CHANNEL),
    Wrong("a pattern", "replicas listen to rooms", PATTERN),
    Wrong("a late leave", "the room was left late", more=LEAVES),
    Wrong(
        "a position that is read elsewhere",
        "a member is told a seq",
        (
            (
                HEARD,
                """
        place = await self.redis.hmget(channel_of(room), "epoch", "seq")
        return Position(place[0].decode(), int(place[1]))
""",
            ),
        ),
    ),
    Wrong(
        "a join that believes",
        "messages fell between",
        (
            ("await asyncio.wait_for(asyncio.shield(self.rooms[room]), 2)", "pass"),
            ("self.places[room])", 'self.places.get(room, ("", 0)))'),
        ),
    ),
    Wrong(
        "futures that stay open",
        "a client waits for ever",
        (("stored.set_exception(BrokerDown(str(exc)))", "pass"),),
    ),
    Wrong(
        "a silent loss",
        "after its link broke, the replica hears again",
        ((GAP, "pass"),),
    ),
    Wrong(
        "a loss that the next message shows",
        "the loss was told only",
        ((ASKS, "self.rooms[room].done() or " + ASKS),),
    ),
    Wrong(
        "no second subscription",
        "after its link broke, the replica hears nothing",
        (("for room in list(self.rooms)", "for room in ()"),),
    ),
    Wrong(
        "one epoch for ever",
        "Redis has forgotten",
        (("name.decode(), int(number)", '"e", int(number)'),),
    ),
)
