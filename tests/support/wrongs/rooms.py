"""Wrong solutions of chapter 3, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

CLOSED = (
    "for room in self.rooms.pop(member, set()):\n            self.leave(member, room)"
)

EMPTY = "            self.members.pop(room, None)\n"

NUMBERS = "            self.numbers.pop(room, None)\n"

THERE = "for each in there:\n"

CHUNKS = "chunks = {"

ACK = "            member.reply(Ack(room, number[1], message.ref))"

NUMBER = 'number = self.numbers.get(room, ["", 0])'

WRONGS: tuple[Wrong, ...] = (
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
)
