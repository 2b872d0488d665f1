"""Keep the claim on a message alive: Flower's SuperNode offers a message again when its claim lapses.

A SuperNode waits half a minute for the first heartbeat of the answering process, and a minute for each further
heartbeat. Flower's own client sends the first heartbeat after all its imports, which is too late on a slow machine.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deploy.flower import internals
from deploy.site.launcher import Task

ANSWER_WITHIN = 10.0
"""Seconds within which the SuperNode, which runs on the same machine, has to answer."""
LAPSE = 60.0
"""Seconds after the last heartbeat at which Flower lets a claim lapse."""


class Claim:
    """Hold the claim on a message, as given by a task's token.

    Flower's own heartbeat sender is not used: the sender ends its process when a heartbeat is refused, and retries for
    ever when nothing answers.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def keep(self) -> bool | None:
        """Send a heartbeat.

        Returns:
            True: the claim holds. False: the claim has lapsed, or the message is answered. None: the SuperNode does not
            answer.
        """
        task = self._task
        try:
            return internals.send_heartbeat(
                task.runtime_api_address, task.token, authority=Path(task.authority), timeout=ANSWER_WITHIN
            )
        except Exception as error:  # after any error the next heartbeat is still sent
            status = getattr(getattr(error, "response", None), "status_code", None)
            return False if status in (401, 403) else None

    def close(self) -> None:
        """End the claim of a process that has answered its message and died before reporting completion.

        The SuperNode handles one message at a time. If this claim lapsed later, the SuperNode would attribute the lapse
        to the message being handled by then, and answer that message with an error.
        """
        task, details = self._task, "The process ended before it said so."
        with suppress(Exception):
            internals.report_failure(
                task.runtime_api_address, task.token, details, authority=Path(task.authority), timeout=ANSWER_WITHIN
            )
