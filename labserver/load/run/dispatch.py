"""Which worker gets which user: publishers have a process of their own.

A process that is busy with reading sends late, and what it sends late looks slow to
every member.
"""

from __future__ import annotations

from typing import Any

from locust.dispatch import UsersDispatcher


class PublishersApart(UsersDispatcher):
    """Gives all publishers to the first worker, and all others to the other workers."""

    def _add_users_on_workers(self) -> dict[str, dict[str, int]]:
        most = self._current_user_count + self._user_count_per_dispatch_iteration
        while self._current_user_count < min(most, self._target_user_count):
            user = next(self._user_generator)
            if not user:
                self._no_user_to_spawn = True
                break
            worker = self._worker_of(user)
            self._users_on_workers[worker.id][user] += 1
            self._current_user_count += 1
            self._active_users.append((worker, user))
        return self._users_on_workers

    def _worker_of(self, user: str) -> Any:
        publishers = {
            each.__name__
            for each in self._user_classes
            if getattr(each, "publishes", False)
        }
        workers = self._worker_nodes
        if len(workers) < 2 or len(publishers) == len(self._user_classes):
            return next(self._worker_node_generator)
        if user in publishers:
            return workers[0]
        worker = workers[0]
        while worker is workers[0]:
            worker = next(self._worker_node_generator)
        return worker
