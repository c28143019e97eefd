"""The judge: each promise as checks, and the worlds in which they run.

A check is an async function of a world. It asks it for servers, talks to them as any
client would, and raises :class:`Broken` with what it saw. Worlds are servers in this
process (:mod:`world`), and a command's processes or URLs (:mod:`outside`). Tests run
the checks at every stage from their own on and against the mistakes, a chapter shows
what the same check sees on both, and ``labserver judge`` judges anybody's server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from labserver.judge import auth, backpressure, broker, echo, heartbeat, resume, rooms
from labserver.judge.world import Broken, CannotJudge, Skipped, World

__all__ = [
    "PROBES",
    "PROMISES",
    "Broken",
    "CannotJudge",
    "Probe",
    "Skipped",
    "World",
]

Probe = Callable[[World], Awaitable[None]]

PROMISES: dict[str, tuple[Probe, ...]] = {
    "echo": (
        echo.hello_comes_first,
        echo.every_value_comes_back,
        echo.what_is_wrong_is_answered,
        echo.huge_message_is_refused,
        echo.fragments_are_one_message,
        echo.what_is_no_text_ends_its_connection,
        echo.close_is_answered,
    ),
    "auth": (
        auth.strangers_are_refused_with_http,
        auth.forged_tokens_are_refused,
        auth.token_may_come_in_four_ways,
        auth.pages_of_other_sites_are_refused,
        auth.expired_token_ends_its_connection,
        auth.new_token_is_for_the_same_user,
        auth.ended_connection_is_not_held,
        auth.tokens_are_never_printed,
    ),
    "rooms": (
        rooms.everyone_hears_it_once,
        rooms.who_left_hears_nothing,
        rooms.rooms_of_a_token_are_all,
        rooms.what_cannot_be_served_is_answered,
        rooms.others_may_vanish,
        rooms.each_room_counts_for_itself,
        rooms.empty_rooms_are_forgotten,
        rooms.who_ended_is_forgotten,
        rooms.coming_and_going_costs_nobody_a_message,
        rooms.frame_is_built_once,
        rooms.messages_of_a_tick_share_a_write,
    ),
    "heartbeat": (
        heartbeat.who_vanished_is_ended,
        heartbeat.who_reads_slowly_stays,
        heartbeat.pings_are_no_burst,
        heartbeat.dead_peers_are_gone,
        heartbeat.pings_are_spread,
    ),
    "backpressure": (
        backpressure.a_stuck_reader_holds_up_nobody,
        backpressure.memory_stays_bounded,
        backpressure.who_is_stuck_is_ended,
        backpressure.who_reads_no_more_is_ended,
        backpressure.no_loss_is_silent,
        backpressure.the_others_are_not_held_up,
        backpressure.what_is_held_stays_bounded,
        backpressure.every_loss_is_told,
        backpressure.answers_are_never_dropped,
    ),
    "broker": (
        broker.replicas_agree_on_one_order,
        broker.replica_listens_to_its_own_rooms_only,
        broker.who_returns_at_once_hears,
        broker.who_joins_hears_all_that_follows,
        broker.broken_link_loses_nothing,
        broker.frozen_redis_loses_nothing,
        broker.emptied_redis_is_told,
        broker.killed_replica_costs_the_others_nothing,
    ),
    "resume": (
        resume.coming_back_while_others_speak,
        resume.same_key_is_published_once,
        resume.nothing_falls_between_replay_and_live,
        resume.cursor_that_is_too_old_is_refused,
        resume.cursor_that_means_nothing_is_refused,
        resume.cursor_of_another_room_is_no_licence,
        resume.who_missed_nothing_is_told_so,
        resume.who_returns_together_gets_its_own,
        resume.replay_is_not_larger_than_an_outbox,
        resume.numbering_that_goes_on_recovers,
        resume.room_remembers_its_own_messages,
        resume.history_is_forgotten_with_age,
        resume.first_attempts_are_spread,
        resume.late_attempts_are_spread,
        resume.first_attempt_comes_soon,
        resume.client_stays_away_when_told,
    ),
}
PROBES = {probe.__name__: probe for each in PROMISES.values() for probe in each}
