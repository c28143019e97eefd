"""Why the best known wrong versions of each part are wrong, by what the checks saw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from labserver.judge.run import Finding


@dataclass(frozen=True)
class Reason:
    """An explanation, and how its mistake shows.

    Attributes:
        check: Name of the check that sees it; empty if the class raises something.
        seen: Pattern of what is seen, or raised.
        because: What is wrong; a sentence or two.

    """

    check: str
    seen: str
    because: str


UNMASKED = (
    "the data are still masked. Byte `i` of a client's data is XORed with byte `i % 4` "
    "of the mask, which stands between the head and the data."
)
WAITS = (
    "somebody waits for a peer. `await connection.ping()` waits behind what the peer "
    "does not read, perhaps for ever; `send_ping()` does not wait."
)
CODES = (
    "a connection ended without its code. Write a close frame before you return: its "
    "data are the code, in two bytes, the higher one first."
)

SIGNATURE = (
    "nobody looked at the signature, so anyone can write such a token. Without the "
    "option `verify_signature` it is checked, and the expiry with it."
)
OLD_TIMER = (
    "the old token ended the connection, though there was a new one. Give the member "
    "its new identity, cancel the timer of the old one, and begin another."
)

IN_TWO = (
    "two replicas number a message each, and publish them in the other order: between "
    "two commands there is time. Number and publish in one script."
)

# By part, the most telling first: one mistake may break several checks.
REASONS: dict[str, tuple[Reason, ...]] = {
    "server": (
        Reason(
            "hello_comes_first",
            "Sec-WebSocket-Accept",
            "the accept key is wrong. Take the key as the text that was sent, put the "
            "GUID behind it, take the SHA-1, and encode the 20 bytes of its `digest()` "
            "in base64.",
        ),
        Reason(
            "hello_comes_first",
            "nothing came at all",
            "the client waits for the end of an HTTP answer. Each line ends in "
            "`\\r\\n`, and an empty line ends the head.",
        ),
        Reason(
            "fragments_are_one_message",
            "that came in pieces",
            "TCP is a stream of bytes and keeps no frames together: `read(n)` returns "
            "what has come so far. `readexactly(n)` waits for the rest.",
        ),
        Reason(
            "",
            "^Ends: ",
            "`Ends` leaves your server, and nobody sends its code. Catch it outside of "
            "the loop, and write a close frame.",
        ),
        # A random mask may leave ASCII, so it shows in one check or another.
        Reason("what_is_wrong_is_answered", "closed with 100[67] before", UNMASKED),
        Reason("every_value_comes_back", "^null was answered", UNMASKED),
        Reason(
            "what_is_no_text_ends_its_connection",
            "closed with 100[67] before the echo",
            UNMASKED,
        ),
        Reason(
            "huge_message_is_refused", "closed with 100[67] before the echo", UNMASKED
        ),
        Reason(
            "",
            "^UnicodeDecodeError",
            "a text that is no UTF-8 ends its connection with 1007, and `decode` says "
            "that it is none by raising `UnicodeDecodeError`.",
        ),
        Reason(
            "huge_message_is_refused",
            r"closed with 1007 before an end|: \d{1,3} came back",
            "the length of a longer frame is read wrongly: 126 says that it follows in "
            "two bytes, 127 in eight.",
        ),
        Reason(
            "huge_message_is_refused",
            r": \d{5,} came back",
            "a message has no limit. Look at the length in the head, before you read "
            "the data, and count what the fragments of a message have together.",
        ),
        Reason(
            "every_value_comes_back",
            "true was answered",
            "what came before is still there: after a whole message a new one begins.",
        ),
        Reason(
            "fragments_are_one_message",
            "came back",
            "a frame is not a message. Keep the data of text and continuation frames "
            "until one has `FIN`, and let a ping between them change nothing of that.",
        ),
        Reason(
            "fragments_are_one_message",
            "the pong says",
            "a pong has the data of its ping, so that the other side knows which ping "
            "it answers.",
        ),
        Reason(
            "fragments_are_one_message",
            "in vain for a pong",
            "a ping is answered at once, also between the fragments of a message: with "
            "a frame of opcode `PONG` and the same data.",
        ),
        Reason(
            "what_is_no_text_ends_its_connection",
            "in vain for a close with 1003",
            "binary frames are served like text. Here a client has agreed on no format "
            "for them, so they end their connection: `raise Ends(1003)`.",
        ),
        Reason(
            "what_is_no_text_ends_its_connection",
            "in vain for a close with 1007",
            "bytes that are no UTF-8 were taken for text. Decode strictly, and end the "
            "connection with 1007 where that fails: or each side reads another text.",
        ),
        Reason("huge_message_is_refused", "closed with 100[56] before an end", CODES),
        Reason(
            "what_is_no_text_ends_its_connection",
            r"was closed with \d|ended without a close",
            CODES,
        ),
        Reason(
            "close_is_answered",
            "without a close frame|in vain for the answer to a close",
            "a client that says goodbye waits for yours. Answer a close frame with a "
            "close frame of the same code, and return.",
        ),
        Reason(
            "close_is_answered",
            "the connection stays open",
            "after both close frames the server ends the connection: return.",
        ),
    ),
    "application": (
        Reason(
            "",
            "changed size during iteration",
            "a loop goes over a set that changes meanwhile: `leave` takes something "
            "out of it, or an `await` in the loop lets another client join or leave. "
            "Loop over a copy, `list(...)`, or `pop` the set out of its dictionary "
            "first.",
        ),
        Reason(
            "",
            r"^KeyError.*in \S+\.leave",
            "a client may leave a room in which it is not, and is answered `left`, "
            "too. Look whether it is there, or use `get` and `discard`, which do "
            "nothing if it is not.",
        ),
        Reason(
            "everyone_hears_it_once",
            "no answer to join",
            "a client finds an answer by its `ref`: put the `ref` of its message into "
            "each answer.",
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "before the answer to a refresh",
            "a client sent a new token in time, and was ended with its old one: pass a "
            "`Refresh` on to `self.refresh`.",
        ),
        Reason(
            "who_left_hears_nothing",
            "no answer to leave",
            "a leave has an answer, too: without `Left` a client cannot know from when "
            "on it hears nothing more.",
        ),
        Reason(
            "each_room_counts_for_itself",
            "no answer to publish",
            "a publisher waits for its answer: if its message has a `ref`, reply with "
            "an `Ack` that has the message's number.",
        ),
        Reason(
            "everyone_hears_it_once",
            "without a ref was answered",
            "nobody asked for that `Ack`. A message whose `ref` is `UNSET` has none, "
            "and its publisher waits for nothing.",
        ),
        Reason(
            "who_left_hears_nothing",
            "no answer to publish|to publish without being a member",
            "publishing needs no membership. Number the message of a client that is "
            "not in the room, send it to those who are, and answer.",
        ),
        Reason(
            "everyone_hears_it_once",
            "in vain for 51 messages to ann",
            "the publisher was left out. A publisher that is a member gets its own "
            "message like everybody else: so it learns its place in the order.",
        ),
        Reason(
            "everyone_hears_it_once",
            "^ann, .* duplicated [1-9]",
            "the publisher gets its message twice, as publisher and as member. Send it "
            "to the members only; the publisher is one of them, or does not hear it.",
        ),
        Reason(
            "everyone_hears_it_once",
            "^bob, .* duplicated [1-9]",
            "bob joined twice, and is in the room twice. To join again is no second "
            "membership; a set has each member once, a list does not.",
        ),
        Reason(
            "everyone_hears_it_once",
            "a client of another room",
            "a message went to all connections. The first index says which of them are "
            "in its room.",
        ),
        Reason(
            "rooms_of_a_token_are_all",
            "to publish a room",
            "only a join looks at the token. It also says to which rooms its client "
            "may publish: nobody has to be in a room to speak there.",
        ),
        Reason(
            "rooms_of_a_token_are_all",
            "to join a room",
            "nobody looked at the token. Before a join and a publish, ask "
            "`member.identity.may_enter(room)`, and raise `BadMessage` if it says no.",
        ),
        Reason(
            "who_left_hears_nothing",
            "a client that had left",
            "a leave cleans one index, and messages go by the other. Take the member "
            "out of the room's set, and the room out of the member's.",
        ),
        Reason(
            "who_left_hears_nothing",
            "in vain for a message after another member's leave",
            "with one member that leaves, the room goes for all. Forget a room when "
            "its set of members is empty, not before.",
        ),
        Reason(
            "each_room_counts_for_itself",
            r"numbers \[1, 3, 5\]",
            "one count goes on over all rooms, so members of one room see holes that "
            "no message will fill. Each room needs a count of its own.",
        ),
        Reason(
            "each_room_counts_for_itself",
            r"numbers \[0, 1, 2\]|is told seq -1",
            "a room's first message has number 1. Then 0 is free to say that there was "
            "none: it is the `seq` of `Joined` in a new room.",
        ),
        Reason(
            "each_room_counts_for_itself",
            "is told seq 1",
            "the `seq` of `Joined` is the newest message's number, not the next one's: "
            "a client takes it for a message that it has missed.",
        ),
        Reason(
            "each_room_counts_for_itself",
            "were acknowledged as",
            "an `Ack` has the number that the message has for the members. Count "
            "first, then use the same number for both.",
        ),
        Reason(
            "each_room_counts_for_itself",
            "in the same epoch",
            "the count began again, and nobody can see it: number 1 is now two "
            "messages. A new numbering needs a new epoch, such as "
            "`secrets.token_hex(4)`.",
        ),
        Reason(
            "who_ended_is_forgotten",
            "is still ",
            "`closed` must clean both indexes. In the attribute that is named, the "
            "connection stays for ever, with all its memory. The second index says in "
            "which rooms it is: take it out of each, then take the connection out.",
        ),
        Reason(
            "empty_rooms_are_forgotten",
            "in which nobody ever was",
            "a message to an empty room leaves an entry behind, so a client can fill "
            "the memory with names. `setdefault` and a `defaultdict` add what they do "
            "not find; `get` does not.",
        ),
        Reason(
            "empty_rooms_are_forgotten",
            "has left is still in ",
            "the last member has left the room, and the attribute that is named still "
            "has it in a set. A leave cleans both indexes.",
        ),
        Reason(
            "empty_rooms_are_forgotten",
            "is still a key of",
            "a room without members is kept, in the attribute that is named. With its "
            "last member goes all that you have of a room, also its numbering: names "
            "of rooms are without end, and memory is not.",
        ),
        Reason(
            "frame_is_built_once",
            "6 frames were built",
            "the frame was built again for each member. Build one chunk for each "
            "variant, before the loop, and give it to all members that have this "
            "variant.",
        ),
        Reason(
            "frame_is_built_once",
            "not through the outbox's deliver",
            "messages of a room go through `deliver`, answers through `reply`. The "
            "outbox of chapter 5 may drop a slow reader's messages, never its answers.",
        ),
    ),
    "admission": (
        Reason(
            "",
            "^StopIteration",
            "`next` raises `StopIteration` where there is no token. With a second "
            "argument it returns that instead.",
        ),
        Reason(
            "",
            "^Refused",
            "once there is a socket, there is no HTTP answer any more: `Refused` is "
            "for `admit` alone. Later `member.end` says why it ends.",
        ),
        Reason(
            "",
            r"^(Decode|InvalidSignature|ExpiredSignature|InvalidAlgorithm|Bad\w+)",
            "what is raised for a bad token leaves your class, so the client gets a "
            "500. A bad token is nothing unusual: catch all that is a "
            "`jwt.PyJWTError`, and refuse it.",
        ),
        Reason(
            "forged_tokens_are_refused",
            "for a token without an expiry",
            "a token without `exp` would be good for ever. `jwt.decode` takes it, "
            "unless its `options` require the claim.",
        ),
        Reason(
            "token_may_come_in_four_ways",
            "HTTP 403 instead of 101",
            "a client without `Origin` was refused. Only browsers send it: without it "
            "there is no page that could use its visitor's cookie.",
        ),
        Reason(
            "token_may_come_in_four_ways",
            "closed with 1011",
            "the server could not go on after the handshake. Does `admit`, a plain "
            "function, return the identity, also at its end?",
        ),
        Reason(
            "strangers_are_refused_with_http",
            "HTTP 101 instead of 401",
            "a stranger got a socket. `admit` is the moment to refuse, while there is "
            "none: `raise Refused(...)`. `member.end` closes one that is open.",
        ),
        Reason(
            "strangers_are_refused_with_http",
            r"HTTP (?!101|500)\d+ instead of 401",
            "the status says what the client may do. 401: come with a new token. 403: "
            "do not come back, as the answer will not change.",
        ),
        Reason(
            "forged_tokens_are_refused",
            "HTTP 101 instead of 401 for a token (with alg none|signed with HS512)",
            "the token chose how it is checked. Its head is written by the sender, so "
            "name the one algorithm yourself.",
        ),
        Reason(
            "forged_tokens_are_refused",
            "HTTP 101 instead of 401 for a token (signed|with)",
            SIGNATURE,
        ),
        Reason(
            "forged_tokens_are_refused",
            "for a token that has expired",
            "an expired token was accepted. A token cannot be taken back: its expiry "
            "is all that ends what a thief, or a former user, can do with it.",
        ),
        Reason(
            "token_may_come_in_four_ways",
            "HTTP 401 instead of 101",
            "a good token was not found. There are four ways in, since a script in a "
            "browser can set no header: take the first that `tokens(request)` yields.",
        ),
        Reason(
            "token_may_come_in_four_ways",
            "was taken for",
            "a request may bring several tokens, and the first counts, in the order of "
            "`tokens(request)`.",
        ),
        Reason(
            "pages_of_other_sites_are_refused",
            "HTTP 101 instead of 403 for http://elsewhere.example",
            "any page may open a WebSocket to any host, and the browser sends the "
            "visitor's cookie along. Only `Origin` says which page it was.",
        ),
        Reason(
            "pages_of_other_sites_are_refused",
            "HTTP 101 instead of 403 for http",
            "a part of a name is not the name: anyone can register a domain that "
            "begins or ends like yours. Compare the whole origin.",
        ),
        Reason(
            "pages_of_other_sites_are_refused",
            "HTTP 101 instead of 403 for null",
            "the text `null` is not a missing header: it is the origin of a page in a "
            "sandbox, of whichever site.",
        ),
        Reason(
            "pages_of_other_sites_are_refused",
            "answered HTTP 403",
            "the server's own page was refused. An origin is a scheme, `://`, and what "
            "the header `Host` says; the scheme may be `http` or `https`.",
        ),
        Reason(
            "pages_of_other_sites_are_refused",
            "HTTP 401 instead of 403",
            "the cookie's token was good, and the page was not. 401 would send the "
            "client for a new token, which does not help it: this is a 403.",
        ),
        Reason(
            "expired_token_ends_its_connection",
            "in vain for the end",
            "the expiry was looked at in the handshake, and never again. Begin a timer "
            "in `opened`. It takes the seconds that are left: `expires` is a time of "
            "the clock `time.time()`.",
        ),
        Reason(
            "expired_token_ends_its_connection",
            "instead of 4401",
            "the code says what the client may do. 4401: come with a new token. With "
            "another it may come back at once, and again and again.",
        ),
        Reason(
            "ended_connection_is_not_held",
            "is held",
            "a connection that is over stays in memory, until its token expires. Its "
            "timer holds it: keep it in `member.expiry`, and cancel it in `released`. "
            "And keep no member yourself.",
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "was answered echo",
            "a refresh got no answer of its own: return `Refreshed` with the new "
            "expiry.",
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "expires of refreshed",
            "the answer has the expiry of the new token, so that the client knows when "
            "to send the next.",
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "closed with 4401 before",
            OLD_TIMER,
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "at the expiry of a new token",
            "a connection outlived its new token: after a refresh, too, a timer must "
            "wait for the expiry.",
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "with another user's token",
            "a connection took another user's token. Whoever gets hold of one would go "
            "on in that name: compare the new user with that of `member.identity`.",
        ),
        Reason(
            "new_token_is_for_the_same_user",
            "with a forged token",
            "a new token is checked like the first: it comes from the client.",
        ),
    ),
    "heartbeat": (
        Reason(
            "",
            "changed size during iteration",
            "to cut a connection also forgets it, so the loop's own collection changes "
            "under it. Loop over a copy: `list(...)`.",
        ),
        Reason(
            "who_vanished_is_ended",
            "closed with 4408",
            "live peers were ended. A quiet peer is not dead: only a ping that stays "
            "without an answer says so, and the answer needs its time. Look three "
            "quarters of an interval later, at `connection.seen`: the server notes "
            "each answer there; a future of `connection.ping()` never hears of it.",
        ),
        Reason(
            "who_vanished_is_ended",
            "were sent a goodbye",
            "a close frame is a question: `close()` and `end()` wait for the answer, "
            "and the dead do not answer. `cut` does not wait.",
        ),
        Reason(
            "pings_are_no_burst",
            "in vain for a ping",
            "too few pings were sent: each peer must be pinged again and again, once "
            "an interval, from the moment when the server calls `watch`.",
        ),
        Reason(
            "who_vanished_is_ended",
            "with a full buffer",
            WAITS,
        ),
        # Seen where it is the only one: the pings did not go the way of send_ping.
        Reason("pings_are_spread", "in vain for a ping", WAITS),
        Reason(
            "who_vanished_is_ended",
            "12 of 12 dead peers",
            "the pings go out, and nobody judges the answers: cut a connection where "
            "`pinged > seen`, three quarters of an interval after its ping.",
        ),
        Reason(
            "who_vanished_is_ended",
            r"\d of 12 dead peers",
            "some of the dead were cut and the others stayed. Does a `return` inside "
            "the loop end each sweep at the first dead peer?",
        ),
        Reason(
            "pings_are_no_burst",
            "were pinged within",
            "one timer pings everybody at the same moment, so all pings, all pongs and "
            "all ends come in one burst, once an interval. Give each connection a "
            "random moment of its own, in `watch`.",
        ),
        Reason(
            "dead_peers_are_gone",
            "dead peers still open",
            "they are cut too late. Two intervals must cover the worst case: the peer "
            "vanishes just after it answered, is pinged an interval later, and that "
            "ping alone must decide.",
        ),
        Reason(
            "dead_peers_are_gone",
            "were counted as dead",
            "the peers are gone and the operator does not know: count each with "
            "`metrics.dead += 1`, and end it with the code `HEARTBEAT_LOST`.",
        ),
    ),
    "outbox": (
        Reason(
            "what_is_held_stays_bounded",
            "bytes held, limit",
            "what waits has no limit, or not all of it is counted. What waits is what "
            "is in your queue and what is in the transport, and at most `outbox_limit` "
            "bytes of it may wait.",
        ),
        Reason(
            "who_is_stuck_is_ended",
            "still connected",
            "a reader that takes no byte is kept for ever, with all that waits for it. "
            "Begin a timer in `paused`, and `cut` if nothing was taken when it ends.",
        ),
        Reason(
            "who_reads_slowly_stays",
            "was ended",
            "a reader that is slow, and reads, was cut. Remember `connection.taken()` "
            "in `paused`; if it has grown when the timer ends, wait once more.",
        ),
        Reason(
            "answers_are_never_dropped",
            "answers were dropped",
            "the limit was applied to answers, too. A client waits for each of them, "
            "perhaps for ever. Hold them, and end a client that asks without reading.",
        ),
        Reason(
            "every_loss_is_told",
            "reordered [1-9]",
            "something overtook what was waiting. While anything waits, everything "
            "else goes through the queue, also an answer and the notice of a loss.",
        ),
        Reason(
            "every_loss_is_told",
            "unsignalled gaps [1-9]",
            "the notice covers less than was lost: it must name the first and the last "
            "of the messages that are missing.",
        ),
        Reason(
            "every_loss_is_told",
            "in vain for a drop|rate_limited",
            "nothing was counted as dropped. This task asks for `drop-newest`: what "
            "does not fit is lost, and `metrics.drops` counts it, message by message.",
        ),
        Reason(
            "every_loss_is_told",
            "in vain for the rest",
            "the reader reads again, and what waited for it never comes: `resumed` "
            "must write from the queue, until the socket is full again.",
        ),
        Reason(
            "every_loss_is_told",
            "lost without a gap",
            "a loss without a word. The reader must get a `gap` for it, and before any "
            "answer that comes later: who gets that answer believes to have all that "
            "was sent before.",
        ),
    ),
    "history": (
        Reason(
            "",
            "'NoneType' object has no attribute '(epoch|seq)'",
            "a client that comes for the first time has no cursor: it is `None`.",
        ),
        Reason(
            "cursor_that_is_too_old_is_refused",
            "not recovered, though all",
            "a client was refused of which no message is missing. From seq 5 to seq "
            "25 it missed 20, not 21: its cursor is a message that it has.",
        ),
        Reason(
            "cursor_that_means_nothing_is_refused",
            "recovered by a cursor .*nonsense",
            "a seq was compared without its epoch. After Redis has lost its memory, "
            "the room counts from 1 again: the same number is another message then. "
            "`position.continues` looks at both.",
        ),
        Reason(
            "cursor_that_means_nothing_is_refused",
            "recovered by a cursor",
            "a cursor that is ahead of the room was taken for one that missed nothing. "
            "It names a message that this room never had, so nobody knows what the "
            "client has.",
        ),
        Reason(
            "numbering_that_goes_on_recovers",
            "^not refused",
            "the new epoch shares only the first messages of the one before. What came "
            "after them is lost, and a cursor from there names another message now.",
        ),
        Reason(
            "numbering_that_goes_on_recovers",
            "^refused",
            "only equal epochs were accepted. When another Redis takes over, the epoch "
            "is new and most of the numbers go on, so every client would load all "
            "again. `position.continues` knows of it.",
        ),
        Reason(
            "cursor_that_is_too_old_is_refused",
            "recovered, with 0 of",
            "an empty list says that nothing was missed. Where a message is missing, "
            "return `None`: only then the client is told.",
        ),
        Reason(
            "cursor_that_is_too_old_is_refused",
            "recovered, with",
            "a replay with a hole was sent as a whole one. Count what the client "
            "missed, by the two seqs, and compare that with what you have for it.",
        ),
        Reason(
            "history_is_forgotten_with_age",
            "in vain for old messages",
            "messages are also forgotten with age, and then fewer than `limit` are "
            "kept. Look at what is in `position.kept`, not at what it may hold.",
        ),
        Reason(
            "replay_is_not_larger_than_an_outbox",
            "4409|recovered, with",
            "the replay was larger than the client's outbox, and so the server ended "
            "it as too slow. It would come back with the same cursor, for ever. Add up "
            "the bytes, and return `None` above `replay_limit`.",
        ),
        Reason(
            "who_returns_together_gets_its_own",
            "came again",
            "somebody got messages again. Several clients that come back at once share "
            "a reading, so `kept` may begin before a cursor: take only what is after "
            "it, and not the message of the cursor itself.",
        ),
        Reason(
            "who_missed_nothing_is_told_so",
            "not recovered",
            "a client that has the newest message missed nothing, and that is no loss: "
            "return an empty list. `None` tells it to load all again.",
        ),
    ),
    "backoff": (
        Reason(
            "",
            "OverflowError",
            "`0.5 * 2**attempt` is too large for a float after a thousand attempts: "
            "three hours without a server. The client raises there, and never comes "
            "back. Limit the exponent, too.",
        ),
        Reason(
            "first_waits_are_spread",
            r"wait 0\.00 to 0\.00 s",
            "the first attempt comes at once, from all clients at the same moment. The "
            "first delay is random, too: it decides the peak after a short outage.",
        ),
        Reason(
            "first_waits_are_spread",
            "none waits less",
            "only a part of the wait is random, so clients spread over a part of the "
            "time. Full jitter draws between 0 and the ceiling.",
        ),
        Reason(
            "first_waits_are_spread",
            r"of \d+ wait",
            "all clients lost the same server at the same moment, and now they come "
            "back at the same moment. Multiply the ceiling by `draw()`.",
        ),
        Reason(
            "waits_double_up_to_a_cap",
            "attempt 0 waits up to 1 s",
            "the ceiling is doubled before its first use. After the most common "
            "outage, a short one, everybody waits twice as long as needed.",
        ),
        Reason(
            "waits_double_up_to_a_cap",
            "attempt 0 waits",
            "attempt 0 waits another time than `draw()` times 0.5 s. Is the random "
            "number your own? The probe's `draw` returned 1.0.",
        ),
        Reason(
            "waits_double_up_to_a_cap",
            r"attempt \d+ waits up to (2[1-9]|[3-9]\d|\d{3,})",
            "there is no cap: attempt 10 may wait more than eight minutes, and its "
            "user is gone by then.",
        ),
        Reason(
            "waits_double_up_to_a_cap",
            r"attempt \d+ waits",
            "the ceiling does not double. A crowd that finds the server still away "
            "must thin out fast: 0.5, 1, 2, 4 seconds, and so on.",
        ),
        Reason(
            "late_waits_are_spread",
            "in the end",
            "the cap comes after the draw. In a long outage nearly every draw is above "
            "it, and most clients come back together, every 20 s.",
        ),
        Reason(
            "it_stays_away_when_told",
            "after 4",
            "the close was not obeyed. After 4403 the answer will not change, and "
            "after 4401 it needs another token; so will an unknown code from 4000 on. "
            "A client that asks again and again is load, and an alarm.",
        ),
        Reason(
            "it_stays_away_when_told",
            "after HTTP",
            "a refusal at the door was not obeyed. There is no close then, and "
            "`told.code` is `None`: look at `told.status`.",
        ),
        Reason(
            "it_comes_back_when_it_may",
            "for ever",
            "the server said that this passes, and the client gives up. Stay away only "
            "after `Return.NEVER`, and after `NEW_TOKEN`, as there is no other token.",
        ),
        Reason(
            "it_waits_as_long_as_told",
            "wait the same time",
            "all clients that were refused got the same `Retry-After`, and come back "
            "together when it is over. Add the random wait to it.",
        ),
        Reason(
            "it_waits_as_long_as_told",
            "^waits",
            "the server asked for a time to recover, and did not get it. Wait at least "
            "`told.wait` seconds, and the random time on top.",
        ),
    ),
    "broker": (
        Reason(
            "everyone_hears_it_once",
            "in another order",
            "messages of one client overtook each other: a pool gives each call a "
            "connection of its own, and Redis takes them as they come. Let one task "
            "send everything, in the order in which `publish` was called.",
        ),
        Reason(
            "messages_of_a_tick_share_a_write",
            "writes for",
            "each message makes a round trip of its own, and waits for all that are "
            "before it. Send what `batch()` returns in one pipeline.",
        ),
        Reason(
            "",
            r"^KeyError: .*\bread,",
            "the position of a room is read before it is known: `subscribe` must wait "
            "until Redis has confirmed, and this replica knows where the room stands.",
        ),
        Reason(
            "",
            r"^(Connection|Timeout)Error: .*\bsend,",
            "the task that sends ended with the first failure, and all later messages "
            "wait for ever. Catch what Redis raises, and fail the futures.",
        ),
        Reason(
            "",
            r"^((Connection|Timeout)Error|BrokerDown): .*\bhear,",
            "the task that hears ended with its link. A link breaks, and so may what "
            "is asked after it is new: catch both, wait a moment, and connect again.",
        ),
        Reason(
            "replicas_agree_on_one_order",
            r"[1-9]\d* numbers were given twice",
            "each replica counts for itself, so two messages have the same number. "
            "Let Redis count: `HINCRBY` in the script.",
        ),
        Reason(
            "replicas_agree_on_one_order",
            "duplicated [1-9]",
            "the publisher's replica delivers a message, and delivers it again when it "
            "comes back from Redis. Deliver only what is heard.",
        ),
        Reason(
            "replicas_agree_on_one_order",
            "different messages at",
            "each replica delivers its own messages first, so two replicas have two "
            "orders. Deliver only what comes back from Redis, also your own.",
        ),
        Reason(
            "replicas_agree_on_one_order",
            "reordered [1-9]|unsignalled gaps [1-9]",
            IN_TWO,
        ),
        Reason(
            "replica_listens_to_its_own_rooms_only",
            r"^[01] replicas got the message, [12] have",
            "no replica has subscribed to the room's own channel, `channel_of(room)`. "
            "With one channel for all rooms, each replica reads what only others need.",
        ),
        Reason(
            "replica_listens_to_its_own_rooms_only",
            "got the message",
            "replicas listen to rooms in which they have no member, and read each "
            "message only to throw it away. Subscribe to a room when a client joins.",
        ),
        Reason(
            "who_returns_at_once_hears",
            "after leaving and joining again",
            "the room was left late, when a new member was already there. Leave it "
            "only if it is still empty then, and join again what you have left.",
        ),
        Reason(
            "who_joins_hears_all_that_follows",
            "reordered [1-9].*announced gaps [1-9]",  # told lost, and then it came
            IN_TWO,
        ),
        Reason(
            "who_joins_hears_all_that_follows",
            "reordered [1-9]",
            "a member is told a seq, and gets older messages afterwards: its position "
            "was read past the messages that are still on their way. Take the position "
            "of what this replica has heard.",
        ),
        Reason(
            "who_joins_hears_all_that_follows",
            "unsignalled gaps [1-9]",
            "messages fell between a join and the subscription: `subscribe` returned "
            "before Redis had confirmed, and this replica heard nothing yet.",
        ),
        Reason(
            "frozen_redis_loses_nothing",
            "no answer to publish",
            "a client waits for ever for the answer to its publish. While Redis is "
            "away, its future must fail with `BrokerDown`: the client may try again.",
        ),
        Reason(
            "frozen_redis_loses_nothing",
            "never told",
            "after its link broke, the replica hears again, and does not tell what it "
            "has missed. The numbers show it: deliver a `gap` for those between.",
        ),
        Reason(
            "frozen_redis_loses_nothing",
            "only then told",
            "the loss was told only when another message came, perhaps an hour later. "
            "Find out where the room stands as soon as the link is new, and if that "
            "fails, with the next link.",
        ),
        Reason(
            "broken_link_loses_nothing",
            "in vain for the messages after the link broke",
            "after its link broke, the replica hears nothing any more. A new link has "
            "no subscriptions: subscribe again to every room.",
        ),
        Reason(
            "emptied_redis_is_told",
            "Redis came back empty",
            "Redis has forgotten its rooms, and the numbers began again at 1. Without "
            "a word of that, members take new messages for old ones: publish the epoch "
            "with each number, and call `hub.renumber` when it has changed.",
        ),
    ),
}


def reason(place: str, findings: Sequence[Finding], raised: Sequence[str]) -> str:
    """Return why a part is wrong, if that is well known; else an empty text."""
    seen = [(each.check, each.seen) for each in findings if each.outcome == "broken"]
    seen += [("", each) for each in raised]
    for known in REASONS.get(place, ()):
        for check, text in seen:
            if check == known.check and re.search(known.seen, text):
                return known.because
    return ""
