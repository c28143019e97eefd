"""The part that a chapter asks for: its solution is short, and mistakes are explained.

That it passes unsolved as not written, and solved as kept, the test of the whole
chapter shows in a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from labserver.judge.run import Finding
from labserver.notebook import probe, probing
from labserver.notebook.reasons import REASONS, reason
from tests.support.chapters import CHAPTERS, build, chapter, defined

pytestmark = [
    pytest.mark.timeout(60),
    # A wrong admission takes HS512, which wants a longer secret.
    pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning"),
    # A wrong broker may leave a connection open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# To number, publish and hear, and to tell what was not heard, are one thing.
LONGEST = {"06_broker": 55}  # lines
BUILDS = [name for name in CHAPTERS if len(build.tasks(chapter(name))) > 1]


@dataclass(frozen=True)
class Wrong:
    """A solution with a mistake, and how its explanation begins.

    Attributes:
        name: What is wrong.
        because: The beginning of the explanation.
        edits: Texts of the solution, and what stands there instead.
        more: What follows the solution, such as a class that is made of it.
        before: Whether a check of a stage before is what sees it.
        number: Which solution of the chapter it is; 1 is the first part that is built.

    """

    name: str
    because: str
    edits: tuple[tuple[str, str], ...] = ()
    more: str = ""
    before: bool = False
    number: int = 1


# A heartbeat that turns over all connections, once an interval.
SWEEP = """
class MyHeartbeat(MyHeartbeat):
    async def start(self, metrics):
        self.metrics, self.all = metrics, set()
        self.task = asyncio.create_task(self.turn())

    async def stop(self):
        self.task.cancel()

    def watch(self, connection):
        self.all.add(connection)

    def forget(self, connection):
        self.all.discard(connection)

    async def turn(self):
        while True:
            await asyncio.sleep(self.interval)
            self.sweep()

    def sweep(self):
        for connection in list(self.all):
            if connection.pinged > connection.seen and not connection.reads():
                self.metrics.dead += 1
                self.forget(connection)
                connection.cut(HEARTBEAT_LOST)
            else:
                connection.send_ping()
"""
DEAD = "connection.pinged > connection.seen and not connection.reads()"

CLOSED = (
    "for room in self.rooms.pop(member, set()):\n            self.leave(member, room)"
)
EMPTY = "            self.members.pop(room, None)\n"
NUMBERS = "            self.numbers.pop(room, None)\n"
THERE = "for each in there:\n"
CHUNKS = "chunks = {"
ACK = "            member.reply(Ack(room, number[1], message.ref))"
NUMBER = 'number = self.numbers.get(room, ["", 0])'

ORIGIN = 'origin not in (None, f"http://{host}", f"https://{host}")'
REFUSED = 'raise Refused(401, "a valid token is needed")'
DECODE = 'jwt.decode(token, self.secret, ["HS256"], options=needed)'
FIRST = 'next(tokens(request), "")'
OTHERS = "identity is None or identity.user != member.identity.user"
ENDED = "member.end(TOKEN_EXPIRED)\n            return None"
AGAIN = "        self.opened(member)\n        return"
TIMER = "member.expiry = member.loop"

GOODBYE = 'raise Ends(int.from_bytes(data[:2], "big") or 1000)'
CODE = 'frame(CLOSE, end.args[0].to_bytes(2, "big"))'
# Takes for a frame what one read returns.
ONE_READ = """
    import asyncio

    chunk = await reader.read(65536)
    reader = asyncio.StreamReader()
    reader.feed_data(chunk)
    reader.feed_eof()
"""
HEAD = "    first, second = await reader"

CONTINUES = "position.continues(cursor.epoch, cursor.seq)"
KEPT = "position.kept[len(position.kept) - count :]"
RANDOM = "draw() * ceiling"
LATE_CAP = "min(20.0, draw() * 0.5 * 2.0 ** min(attempt, 10))"
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

WRONGS: dict[str, tuple[Wrong, ...]] = {
    "01_echo": (
        Wrong("no GUID", "the accept key is wrong", (("(key + GUID)", "key"),)),
        Wrong(
            "in hex",
            "the accept key is wrong",
            ((".digest()", ".digest().hex().encode()"),),
        ),
        Wrong(
            "an end is missing",
            "the client waits for",
            ((r'accept + b"\r\n\r\n"', r'accept + b"\r\n"'),),
        ),
        Wrong(
            "read",
            "TCP is a stream",
            (("exactly(size)", "(size)"), ("exactly(2)\n    size", "(2)\n    size")),
        ),
        Wrong("one read, one frame", "TCP is a stream", ((HEAD, ONE_READ + HEAD),)),
        Wrong(
            "nobody catches",
            "`Ends` leaves",
            (("except Ends as end", "except ZeroDivisionError as end"),),
        ),
        Wrong(
            "masked", "the data are still masked", (("byte ^ mask[index % 4]", "byte"),)
        ),
        Wrong(
            "masked, not decoded",
            "the data are still masked",
            (
                ("byte ^ mask[index % 4]", "byte"),
                ("message.decode()", 'message.decode(errors="replace")'),
            ),
        ),
        Wrong(
            "decode raises",
            "a text that is no UTF-8",
            (("except UnicodeDecodeError", "except ZeroDivisionError"),),
        ),
        Wrong(
            "short lengths only",
            "the length of a longer",
            (("if size > 125", "if False"),),
        ),
        Wrong(
            "no length of eight bytes",
            "the length of a longer",
            (("size > 125", "size == 126"),),
        ),
        Wrong(
            "no limit",
            "a message has no limit",
            (("if size > LIMIT", "if False"), ("if len(message) > LIMIT", "if False")),
        ),
        Wrong(
            "never a new message",
            "what came before",
            (('                    message = b""\n', ""),),
        ),
        Wrong(
            "a frame is a message",
            "a frame is not a message",
            (("if last:", "if True:"),),
        ),
        Wrong(
            "a ping resets",
            "a frame is not a message",
            (
                (
                    "frame(PONG, data))",
                    'frame(PONG, data))\n                message = b""',
                ),
            ),
        ),
        Wrong(
            "an empty pong",
            "a pong has the data",
            (("frame(PONG, data)", 'frame(PONG, b"")'),),
        ),
        Wrong(
            "no pong",
            "a ping is answered",
            (("writer.write(frame(PONG, data))", "pass"),),
        ),
        Wrong(
            "binary as text",
            "binary frames are served",
            (
                ("elif opcode == BINARY:", "elif opcode == 99:"),
                ("(TEXT, CONTINUATION)", "(TEXT, CONTINUATION, BINARY)"),
            ),
        ),
        Wrong(
            "decoded anyhow",
            "bytes that are no UTF-8",
            (("message.decode()", 'message.decode(errors="replace")'),),
        ),
        Wrong(
            "no goodbye",
            "a client that says goodbye",
            ((GOODBYE, "return"),),
        ),
        Wrong(
            "goodbye ignored",
            "a client that says goodbye",
            ((GOODBYE, "pass"),),
        ),
        Wrong(
            "no end",
            "after both close frames",
            ((GOODBYE, "writer.write(frame(CLOSE, data[:2]))"),),
        ),
        Wrong(
            "an end without a word",
            "a connection ended without its code",
            ((f"writer.write({CODE})", "pass"),),
        ),
        Wrong(
            "a code in digits",
            "a connection ended without its code",
            ((CODE, "frame(CLOSE, str(end).encode())"),),
        ),
    ),
    "02_auth": (
        Wrong("no default", "`next` raises", ((FIRST, "next(tokens(request))"),)),
        Wrong(
            "refused after the upgrade",
            "once there is a socket",
            ((ENDED, 'raise Refused(401, "another token")'),),
        ),
        Wrong(
            "nobody catches",
            "what is raised for a bad token",
            (("except jwt.PyJWTError", "except ZeroDivisionError"),),
        ),
        Wrong(
            "one error is caught",
            "what is raised for a bad token",
            (("except jwt.PyJWTError", "except jwt.ExpiredSignatureError"),),
        ),
        Wrong("no expiry", "a token without `exp`", (('["sub", "exp"]', '["sub"]'),)),
        Wrong(
            "no Origin, no entry",
            "a client without `Origin`",
            ((ORIGIN, ORIGIN.replace("None, ", "")),),
        ),
        Wrong(
            "no identity",
            "the server could not go on",
            (("        return identity\n", ""),),
        ),
        Wrong(
            "a socket for strangers",
            "a stranger got a socket",
            ((REFUSED, "return Identity()"), ("left = ", "left = 1 or ")),
            """

    def opened(self, member) -> None:
        if member.identity.expires is None:
            member.end(TOKEN_EXPIRED)
""",
        ),
        Wrong(
            "an end in the handshake",
            "a stranger got a socket",
            ((REFUSED, "return member.end(TOKEN_EXPIRED)"),),
        ),
        Wrong("403 for 401", "the status says", (("Refused(401", "Refused(403"),)),
        Wrong("404 for 401", "the status says", (("Refused(401", "Refused(404"),)),
        Wrong(
            "the token's own algorithm",
            "the token chose",
            (('["HS256"]', '[jwt.get_unverified_header(token)["alg"]]'),),
        ),
        Wrong(
            "alg none",
            "the token chose",
            (
                (
                    DECODE,
                    """jwt.decode(
                token,
                self.secret,
                ["HS256"],
                options={
                    **needed,
                    "verify_signature": jwt.get_unverified_header(token)["alg"]
                    != "none",
                },
            )""",
                ),
            ),
        ),
        Wrong(
            "no signature",
            "nobody looked at the signature",
            ((DECODE, 'jwt.decode(token, options={"verify_signature": False})'),),
        ),
        Wrong(
            "expired",
            "an expired token was accepted",
            (("options=needed", 'options={**needed, "verify_exp": False}'),),
        ),
        Wrong(
            "the header only",
            "a good token was not found",
            ((FIRST, 'request.headers.get("Authorization", " ").split(" ")[1]'),),
        ),
        Wrong(
            "the query only",
            "a good token was not found",
            ((FIRST, 'request.path.partition("token=")[2]'),),
        ),
        Wrong(
            "the last token",
            "a request may bring several",
            ((FIRST, '["", *tokens(request)][-1]'),),
        ),
        Wrong("any page", "any page may open", ((ORIGIN, "False"),)),
        Wrong(
            "the beginning of a name",
            "a part of a name",
            ((ORIGIN, 'origin and not origin.startswith(f"http://{host}")'),),
        ),
        Wrong(
            "the end of a name",
            "a part of a name",
            ((ORIGIN, "origin and not origin.endswith(host)"),),
        ),
        Wrong(
            "somewhere in it",
            "a part of a name",
            ((ORIGIN, "origin and host not in origin"),),
        ),
        Wrong(
            "null",
            "the text `null`",
            ((ORIGIN, ORIGIN.replace("None", "None, 'null'")),),
        ),
        Wrong(
            "no scheme",
            "the server's own page",
            ((ORIGIN, "origin not in (None, host)"),),
        ),
        Wrong("401 for 403", "the cookie's token", (("Refused(403", "Refused(401"),)),
        Wrong(
            "never again",
            "the expiry was looked at",
            ((f"{TIMER}.call_later", "print"),),
        ),
        Wrong(
            "another clock",
            "the expiry was looked at",
            (("- time.time()", "- time.monotonic()"),),
        ),
        Wrong(
            "another code",
            "the code says",
            (
                ("import TOKEN_EXPIRED", "import NORMAL, TOKEN_EXPIRED"),
                ("member.end, TOKEN_EXPIRED", "member.end, NORMAL"),
            ),
        ),
        Wrong(
            "not cancelled",
            "a connection that is over",
            (("member.expiry.cancel()", "pass"),),
        ),
        Wrong("not kept", "a connection that is over", ((TIMER, "member.loop"),)),
        Wrong(
            "no answer", "a refresh got no answer", (("return Refreshed", "Refreshed"),)
        ),
        Wrong(
            "no expiry in the answer",
            "the answer has the expiry",
            (("Refreshed(identity.expires)", "Refreshed(None)"),),
        ),
        Wrong(
            "two timers",
            "the old token ended",
            (("        self.released(member)  # the timer of the old token\n", ""),),
        ),
        Wrong(
            "the old identity",
            "the old token ended",
            (("        member.identity = identity\n", ""),),
        ),
        Wrong("no new timer", "a connection outlived", ((AGAIN, "        return"),)),
        Wrong(
            "anybody's token",
            "a connection took another",
            ((OTHERS, "identity is None"),),
        ),
        Wrong(
            "a refresh that checks nothing",
            "a new token is checked",
            (
                (
                    "identity = self.verified(token)\n        if",
                    'claims = jwt.decode(token, options={"verify_signature": False})\n'
                    "        identity = identity_of(claims)\n        if",
                ),
            ),
        ),
    ),
    "03_rooms": (
        Wrong("nothing at the end", "`closed` must", ((CLOSED, "self.rooms"),)),
        Wrong(
            "a connection's index only",
            "`closed` must clean both",
            ((CLOSED, "self.rooms.pop(member, None)"),),
        ),
        Wrong(
            "the rooms' index only",
            "`closed` must clean both",
            ((CLOSED, "for room in self.members.values(): room.discard(member)"),),
        ),
        Wrong(
            "who left is still a member",
            "a leave cleans one index, and",
            (("        self.members.get(room, set()).discard(member)\n", ""),),
        ),
        Wrong(
            "a room that was left",
            "the last member has left",
            (("self.rooms.get(member, set()).discard(room)", "pass"),),
        ),
        Wrong(
            "empty sets",
            "a room without members",
            ((EMPTY + NUMBERS, "            pass\n"),),
        ),
        Wrong("numbers for ever", "a room without members", ((NUMBERS, ""),)),
        Wrong(
            "setdefault",
            "a message to an empty room",
            (("members.get(message.room", "members.setdefault(message.room"),),
        ),
        Wrong(
            "a number where nobody is",
            "a message to an empty room",
            ((NUMBER, NUMBER.replace("get", "setdefault")),),
        ),
        Wrong(
            "a list",
            "bob joined twice",
            (
                ("(room, set()).add(member)", "(room, []).append(member)"),
                ("members.get(room, set()).discard", "members[room].remove"),
            ),
        ),
        Wrong(
            "without the publisher",
            "the publisher was left out",
            ((THERE, "for each in there - {member}:\n"),),
        ),
        Wrong(
            "the publisher directly",
            "the publisher gets its message twice",
            ((CHUNKS, f"there = [member, *there]\n        {CHUNKS}"),),
        ),
        Wrong(
            "to everybody",
            "a message went to all",
            ((CHUNKS, f"there = set(self.rooms)\n        {CHUNKS}"),),
        ),
        Wrong(
            "an await in the loop",
            "a loop goes over a set",
            (
                (THERE, f"{THERE}            await asyncio.sleep(0)\n"),
                ("    def publish", "    async def publish"),
                ("self.publish(", "await self.publish("),
                ("import secrets", "import asyncio\nimport secrets"),
            ),
        ),
        Wrong(
            "the loop of closed",
            "a loop goes over a set",
            ((CLOSED, CLOSED.replace("pop", "get")),),
        ),
        Wrong(
            "a KeyError",
            "a client may leave",
            (("self.rooms.get(member, set()).discard", "self.rooms[member].remove"),),
        ),
        Wrong(
            "one count for all",
            "one count goes on",
            (
                ("self.numbers = {}", "self.numbers, self.all = {}, [0, 0]"),
                (NUMBER, "number = self.all"),
            ),
        ),
        Wrong(
            "from 0",
            "a room's first message",
            (("event(room, number[1]", "event(room, number[1] - 1"),),
        ),
        Wrong(
            "from -1",
            "a room's first message",
            (("token_hex(4), 0", "token_hex(4), -1"),),
        ),
        Wrong(
            "the next number",
            "the `seq` of `Joined`",
            (("Joined(room, epoch, seq", "Joined(room, epoch, seq + 1"),),
        ),
        Wrong(
            "an old number",
            "an `Ack` has",
            ((ACK, ACK.replace("number[1]", "number[1] - 1")),),
        ),
        Wrong(
            "one epoch",
            "the count began again",
            (("secrets.token_hex(4)", '"e"'),),
        ),
        Wrong(
            "no refresh",
            "a client sent a new token",
            (("self.refresh(member, message)", "pass"),),
            before=True,
        ),
        Wrong(
            "always an ack",
            "nobody asked for",
            (("if message.ref is not UNSET:", "if True:"),),
        ),
        Wrong("no ack", "a publisher waits", ((ACK, "            pass"),)),
        Wrong(
            "no left",
            "a leave has an answer",
            (("member.reply(Left(message.room, message.ref))", "pass"),),
        ),
        Wrong("no ref", "a client finds", (("False, message.ref", "False"),)),
        Wrong(
            "members only",
            "publishing needs no",
            (
                (
                    NUMBER,
                    f"{NUMBER}\n        if member not in there:\n            "
                    'raise BadMessage("forbidden", "no member", message.ref)',
                ),
            ),
        ),
        Wrong(
            "members only, silently",
            "publishing needs no",
            (
                (
                    NUMBER,
                    f"{NUMBER}\n        if member not in there:\n            return",
                ),
            ),
        ),
        Wrong(
            "any room",
            "nobody looked",
            (("not member.identity.may_enter(message.room)", "False"),),
        ),
        Wrong(
            "any room to speak in",
            "only a join",
            (("Join() | Publish() if", "Join() if"),),
        ),
        Wrong(
            "the room goes with one",
            "with one member that leaves",
            (("if not self.members.get(room)", "if True"),),
        ),
        Wrong(
            "a frame for each",
            "the frame was built again",
            (("(chunks[each.variant])", "(chunk(each.variant, room, [said]))"),),
        ),
        Wrong(
            "messages as answers",
            "messages of a room go",
            (("deliver(chunks[each.variant])", "control(chunks[each.variant].data)"),),
        ),
    ),
    "04_heartbeat": (
        Wrong("nobody is judged", "the pings go out", ((DEAD, "False"),)),
        Wrong("a goodbye to the dead", "a close frame is a", ((".cut(", ".end("),)),
        Wrong(
            "an impatient look", "live peers were", (("self.interval * 3 / 4", "0"),)
        ),
        Wrong(
            "three silent pings",
            "they are cut too late",
            ((DEAD, f"{DEAD} and self.silent(connection) > 2"),),
            """

    def silent(self, connection):
        self.times = getattr(self, "times", {})
        self.times[connection] = self.times.get(connection, 0) + 1
        return self.times[connection]
""",
        ),
        Wrong("not counted", "the peers are gone", (("dead += 1", "dead += 0"),)),
        Wrong("one ping", "too few pings", (("self.interval / 4, self", "60, self"),)),
        Wrong("one timer for all", "one timer pings", more=SWEEP),
        Wrong(
            "a return in the loop",
            "some of the dead",
            more=SWEEP.replace("connection.cut", "return connection.cut"),
        ),
        Wrong(
            "a set that changes",
            "to cut a connection also",
            more=SWEEP.replace("list(self.all)", "self.all"),
        ),
        Wrong(
            "a ping that is awaited",
            "somebody waits for a peer",
            more=f"""
class MyHeartbeat(MyHeartbeat):
    def watch(self, connection):
        self.timers[connection] = asyncio.create_task(self.beat(connection))

    async def beat(self, connection):
        while True:
            await connection.ping()
            connection.pinged = connection.loop.time()
            await asyncio.sleep(self.interval * 3 / 4)
            if {DEAD}:
                self.metrics.dead += 1
                return connection.cut(HEARTBEAT_LOST)
            await asyncio.sleep(self.interval / 4)
""",
        ),
    ),
    "05_backpressure": (
        Wrong("no limit", "what waits has no limit", (("if fits and", "if True or"),)),
        Wrong(
            "no deadline", "a reader that takes no byte", (("cut(TOO_SLOW)", "loop"),)
        ),
        Wrong(
            "no look at progress",
            "a reader that is slow, and reads",
            (("self.connection.taken() > self.taken", "False"),),
            before=True,
        ),
        Wrong(
            "answers under the limit",
            "the limit was applied to answers",
            (
                ("self.size > 2 * self.limit", "self.waiting() > self.limit - 200"),
                ("self.connection.end(TOO_SLOW)", "pass"),
            ),
        ),
        Wrong(
            "a notice that overtakes",
            "something overtook",
            (("self.hold(notice(", "self.transport.write(notice("),),
        ),
        Wrong(
            "the last loss only",
            "the notice covers less",
            (("room, first, last))", "room, last, last))"),),
        ),
        Wrong("not counted", "nothing was counted", (("drops += 1", "drops += 0"),)),
        Wrong(
            "the policy disconnect",
            "nothing was counted",
            (("self.metrics.drops += 1", "self.connection.end(TOO_SLOW)"),),
        ),
        Wrong(
            "what waits stays",
            "the reader reads again",
            (("while self.queue and", "while False and"),),
        ),
        Wrong(
            "a loss without a word",
            "a loss without a word",
            (("self.hold(notice(self.connection, room, first, last))", "pass"),),
        ),
        Wrong(
            "a notice after the answer",
            "a loss without a word",
            (
                (
                    "            self.tell()\n            self.hold",
                    "            self.hold",
                ),
            ),
        ),
    ),
    "06_broker": (
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
    ),
    "07_resume": (
        Wrong(
            "half a replay",
            "a replay with a hole",
            (
                ("count < 0 or count > len(position.kept)", "count < 0"),
                (KEPT, "[e for e in position.kept if e.first > cursor.seq]"),
            ),
        ),
        Wrong(
            "one message short",
            "a replay with a hole",
            (("count > len(position.kept)", "count > len(position.kept) + 1"),),
        ),
        Wrong(
            "an empty replay for none",
            "an empty list says",
            (
                (
                    "            return None  # it is ahead",
                    "            return []  # it is ahead",
                ),
                ("count < 0 or", "count >= 0 and"),
                (
                    "        missed = position",
                    "        if count < 0:\n            return None\n"
                    "        missed = position",
                ),
            ),
        ),
        Wrong(
            "by the limit, not by what is kept",
            "messages are also forgotten",
            (("len(position.kept):", "self.limit:"),),
        ),
        Wrong(
            "one too many",
            "a client was refused",
            (("position.seq - cursor.seq", "position.seq - cursor.seq + 1"),),
        ),
        Wrong(
            "with the cursor's own",
            "somebody got messages again",
            ((KEPT, "[e for e in position.kept if e.first >= cursor.seq]"),),
        ),
        Wrong(
            "all that was read",
            "somebody got messages again",
            ((KEPT, "position.kept"),),
        ),
        Wrong(
            "from the future",
            "a cursor that is ahead",
            (
                ("count < 0 or ", ""),
                (KEPT, "[e for e in position.kept if e.first > cursor.seq]"),
            ),
        ),
        Wrong("no epoch", "a seq was compared", ((CONTINUES, "cursor.seq >= 0"),)),
        Wrong(
            "equal epochs only",
            "only equal epochs",
            ((CONTINUES, "cursor.epoch == position.epoch"),),
        ),
        Wrong(
            "the epoch before, and all of it",
            "the new epoch shares",
            (
                (
                    CONTINUES,
                    "(cursor.epoch in (position.epoch, position.before[0] or None))",
                ),
            ),
        ),
        Wrong("any size", "the replay was larger", (("> self.replay_limit", "< 0"),)),
        Wrong(
            "nothing for none",
            "a client that has the newest",
            (("return missed", "return missed or None"),),
        ),
        Wrong(
            "who was never here",
            "a client that comes for the first",
            (("if cursor is None:", "if cursor == 0:"),),
        ),
        *(
            Wrong(name, because, edits, number=2)
            for name, because, *edits in (
                ("no jitter", "all clients lost", (" * ceiling", " * 0 + ceiling")),
                (
                    "at once",
                    "the first attempt comes",
                    (RANDOM, f"({RANDOM}) * (attempt > 0)"),
                ),
                (
                    "half jitter",
                    "only a part",
                    ("draw() * ceiling", "(1 + draw()) * ceiling / 2"),
                ),
                ("no cap", "there is no cap", ("20.0, ", "1e9, ")),
                ("cap after the draw", "the cap comes after", (RANDOM, LATE_CAP)),
                (
                    "doubled first",
                    "the ceiling is doubled",
                    ("(attempt,", "(attempt + 1,"),
                ),
                (
                    "linear",
                    "the ceiling does not",
                    ("2.0 ** min(attempt, 10)", "(attempt + 1)"),
                ),
                (
                    "a source of its own",
                    "attempt 0 waits another",
                    ("draw()", "__import__('random').random()"),
                ),
                ("a night", "`0.5 * 2**attempt`", ("min(attempt, 10)", "attempt")),
                (
                    "comes back anyway",
                    "the close was not",
                    ("comes_back(told.code)", "None"),
                ),
                (
                    "with the same token",
                    "the close was not",
                    (", Return.NEW_TOKEN)", ",)"),
                ),
                (
                    "no look at the status",
                    "a refusal at the door",
                    ("told.status is not None", "False"),
                ),
                (
                    "gives up",
                    "the server said",
                    ("Return.NEW_TOKEN)", "Return.NEW_TOKEN, Return.LATER)"),
                ),
                ("does not wait", "the server asked", ("told.wait + ", "")),
                (
                    "waits as told, and no more",
                    "all clients that were refused",
                    (RANDOM, f"told.wait or {RANDOM}"),
                ),
            )
        ),
    ),
}


def parts(name: str) -> list[tuple[str, str]]:
    """Return the solution of each part that a chapter builds, and its cell."""
    notebook = chapter(name)
    cells = [each.source for each in build.tasks(notebook)]
    return list(zip(build.solutions(notebook), cells, strict=True))[1:]


@pytest.mark.parametrize("name", BUILDS)
def test_solution_fits_a_cell_and_the_cell_leaves_it_out(name: str) -> None:
    written = 0
    for solution, cell in parts(name):
        lines = solution.splitlines()
        begins = ("class ", "async def ", "def ")
        start = next(i for i, line in enumerate(lines) if line.startswith(begins))
        body = [line for line in lines[start:] if line.strip()]
        assert lines[start].split("(")[0].rstrip(":") in cell
        assert body[-1] not in cell
        written += sum(line not in cell for line in body)
    assert 15 <= written <= LONGEST.get(name, 40)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param(name, wrong, id=f"{name}-{wrong.name}")
        for name, wrongs in WRONGS.items()
        for wrong in wrongs
    ],
)
async def test_wrong_part_is_recognised_by_what_the_checks_see(
    name: str, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is known to be wrong needs no second look, which takes most of the time.
    monkeypatch.setattr(probing, "PATIENT", 0.0)
    source, _ = parts(name)[wrong.number - 1]
    for old, new in wrong.edits:
        assert old in source
        source = source.replace(old, new)
    probed = await probe(defined(source + wrong.more), before=wrong.before)
    assert probed.written and not probed.kept
    assert probed.why.startswith(wrong.because), repr(probed)
    assert probed.why in probed._repr_markdown_()


def test_too_few_pings_are_told_from_a_ping_that_waits() -> None:
    # Whether a peer reads when its only ping comes is chance, so both may be seen.
    seen = {
        "who_vanished_is_ended": "a dead peer with a full buffer is still connected",
        "pings_are_no_burst": "waited 2 s in vain for a ping to each",
    }
    findings = [
        Finding("heartbeat", check, "", "broken", words)
        for check, words in seen.items()
    ]
    assert reason("heartbeat", findings, ()).startswith("too few pings")


def test_every_explanation_has_a_wrong_part() -> None:
    words = [wrong.because for wrongs in WRONGS.values() for wrong in wrongs]
    for reasons in REASONS.values():
        for each in reasons:
            assert any(each.because.startswith(begin) for begin in words), each.because
