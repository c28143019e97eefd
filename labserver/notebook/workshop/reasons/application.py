"""Why the best known wrong versions of an application are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

REASONS: tuple[Reason, ...] = (
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
)
