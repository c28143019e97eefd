"""Why the best known wrong versions of a broker are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

IN_TWO = (
    "two replicas number a message each, and publish them in the other order: between "
    "two commands there is time. Number and publish in one script."
)

REASONS: tuple[Reason, ...] = (
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
)
